//! `embedded`: three nodes in three processes, proposals made in process. See `embedded.rs`.

#![forbid(unsafe_code)]

use clap::Parser;
use logdrive_bench::embedded::{self, Shape};
use std::path::PathBuf;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Measures the engine embedded: no client, no socket but the nodes' own.
#[derive(Debug, Parser)]
struct Args {
    /// Nodes, one process each
    #[arg(long, default_value_t = 3)]
    nodes: u64,
    /// Groups; without this both canonical shapes are run: 48 x 16 B and 1,000 x 128 B
    #[arg(long)]
    groups: Option<u64>,
    /// Bytes of one command
    #[arg(long, default_value_t = 128)]
    command_bytes: usize,
    /// Commands outstanding over all groups
    #[arg(long, default_value_t = 1000)]
    outstanding: u64,
    /// Seconds measured
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// Directory for the nodes' logs: a real file system, not tmpfs
    #[arg(long, default_value = ".")]
    dir: PathBuf,
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
}

fn main() -> Result<(), String> {
    let mut arguments = std::env::args().skip(1);
    if arguments.next().as_deref() == Some("node") {
        return embedded::node(&arguments.next().ok_or("no job given")?);
    }
    let args = Args::parse();
    let Args { nodes, command_bytes, outstanding, seconds, .. } = args;
    let shapes = match args.groups {
        Some(groups) => vec![Shape { nodes, groups, command_bytes, outstanding, seconds }],
        None => [(48, 16), (1000, 128)]
            .into_iter()
            .flat_map(|(groups, command_bytes)| {
                [49_000, 1000].map(|outstanding| Shape {
                    nodes,
                    groups,
                    command_bytes,
                    outstanding,
                    seconds,
                })
            })
            .collect(),
    };
    for shape in shapes {
        let report = embedded::run(&shape, &args.dir)?;
        if args.json {
            println!("{}", serde_json::to_string(&report).map_err(|error| error.to_string())?);
            continue;
        }
        println!(
            "{} nodes, {} groups x {} B, {} outstanding ({}): {:.0}/s, p50 {:.0} us, p99 {:.0} us, \
             max {:.0} us",
            shape.nodes,
            shape.groups,
            shape.command_bytes,
            shape.outstanding,
            report.disk_driver,
            report.per_second,
            report.p50_us,
            report.p99_us,
            report.max_us
        );
        for (node, stages) in report.stages.iter().enumerate() {
            let line: Vec<String> = stages
                .iter()
                .map(|(name, mean, p50, p99)| format!("{name} {mean:.0}/{p50:.0}/{p99:.0}"))
                .collect();
            println!("  node {} mean/p50/p99 us: {}", node + 1, line.join(", "));
        }
    }
    Ok(())
}
