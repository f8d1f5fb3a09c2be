//! A write fails, and nothing of it, all of it or its beginning is on the disk (RULES.md W4, W6, W7). The node must
//! stop. Arguments: the node, writes before it, the part that is on the disk.

use super::{Fault, node};
use logdrive_wal::disk::sim::{Answer, WriteFate};
use std::io::ErrorKind;

pub(super) const FAULT: Fault = Fault {
    name: "write error",
    often: 4,
    draw: |random, shape| [shape.any_node(random), random.below(6), random.below(3)],
    inject: |run, [at, after, kind]| {
        let fate = match kind {
            0 => WriteFate::Error(ErrorKind::Other),
            1 => WriteFate::ErrorButThere(ErrorKind::Other),
            _ => WriteFate::Answers(vec![Answer::Bytes(512), Answer::Bytes(0)]),
        };
        run.set_fate(node(at), after, fate);
    },
};
