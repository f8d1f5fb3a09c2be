//! The text of `INFO`.
//!
//! In:     the sections asked for; none, `default`, `all` and `everything` mean all.
//! Out:    `# Section` and `key:value` lines, as Redis writes them; ours are under `# Logdrive`.
//! Cost:   asks every group once and merges the stage histograms: for operators, not for a loop.

use super::{Server, commands::REDIS_VERSION, work};
use std::{fmt::Write as _, process, sync::atomic::Ordering, time::Duration};

pub(crate) fn text(server: &Server, sections: &[String]) -> String {
    let everything = ["default", "all", "everything"];
    let all = sections.is_empty()
        || sections.iter().any(|section| everything.contains(&section.as_str()));
    let mut text = String::new();
    for (name, write) in SECTIONS {
        if all || sections.iter().any(|section| *section == name.to_ascii_lowercase()) {
            if !text.is_empty() {
                text.push_str("\r\n");
            }
            line(&mut text, format_args!("# {name}"));
            write(server, &mut text);
        }
    }
    text
}

type Section = (&'static str, fn(&Server, &mut String));

const SECTIONS: [Section; 4] = [
    ("Server", write_server),
    ("Clients", write_clients),
    ("Cluster", write_cluster),
    ("Logdrive", write_logdrive),
];

fn line(text: &mut String, line: std::fmt::Arguments<'_>) {
    write!(text, "{line}\r\n").expect("a String grows");
}

fn write_server(server: &Server, text: &mut String) {
    line(text, format_args!("redis_version:{REDIS_VERSION}"));
    line(text, format_args!("redis_mode:cluster"));
    line(text, format_args!("logdrive_version:{}", super::VERSION));
    line(text, format_args!("os:{} {}", std::env::consts::OS, std::env::consts::ARCH));
    line(text, format_args!("arch_bits:{}", usize::BITS));
    line(text, format_args!("process_id:{}", process::id()));
    line(text, format_args!("run_id:{}", server.cluster.my_id()));
    line(text, format_args!("tcp_port:{}", server.client_port));
    line(text, format_args!("uptime_in_seconds:{}", server.started.elapsed().as_secs()));
}

fn write_clients(server: &Server, text: &mut String) {
    let connected = server.clients.load(Ordering::Relaxed);
    line(text, format_args!("connected_clients:{connected}"));
    line(text, format_args!("maxclients:{}", server.clients_max));
    let unread = server.output_bytes.load(Ordering::Relaxed);
    line(text, format_args!("client_unread_reply_bytes:{unread}"));
    let unfinished = server.input_bytes.load(Ordering::Relaxed);
    line(text, format_args!("client_unfinished_request_bytes:{unfinished}"));
    line(text, format_args!("client_unfinished_request_bytes_max:{}", server.input_bytes_max));
}

fn write_cluster(_: &Server, text: &mut String) {
    line(text, format_args!("cluster_enabled:1"));
}

fn write_logdrive(server: &Server, text: &mut String) {
    let node = server.node.describe();
    let yes = |flag: bool| if flag { "yes" } else { "no" };
    line(text, format_args!("logdrive_version:{}", super::VERSION));
    line(text, format_args!("cluster_name:{}", node.cluster));
    line(text, format_args!("node:{}", node.node));
    line(text, format_args!("advertise:{}", server.cluster.advertise()));
    line(text, format_args!("disk_driver:{}", node.disk_driver));
    line(text, format_args!("direct_io:{}", yes(node.direct_io)));
    line(text, format_args!("registered:{}", yes(node.registered)));
    line(text, format_args!("shards:{}", node.shards));
    line(text, format_args!("command_bytes_max:{}", node.command_bytes_max));
    line(text, format_args!("groups:{}", server.cluster.groups_here()));
    line(text, format_args!("groups_led:{}", server.cluster.groups_led()));
    let us = |time: Duration| time.as_micros();
    for (shard, time) in server.node.longest_turns().into_iter().enumerate() {
        line(text, format_args!("turn_processor_us_max_{shard}:{}", us(time)));
    }
    line(text, format_args!("clients_processor_us_max:{}", us(work::longest())));
    for stage in server.node.stages() {
        line(
            text,
            format_args!(
                "stage_{}_us:count={},mean={:.1},p50={:.1},p99={:.1},max={:.1}",
                stage.name, stage.count, stage.mean_us, stage.p50_us, stage.p99_us, stage.max_us
            ),
        );
    }
}
