//! A write is interrupted, or writes only a part of its bytes, and the log must continue it (RULES.md W4). Arguments:
//! the node, writes before it, the kernel's answers.

use super::{Fault, node};
use logdrive_wal::disk::sim::{Answer, WriteFate};
use std::io::ErrorKind::{Interrupted, WouldBlock};

pub(super) const FAULT: Fault = Fault {
    name: "short write",
    often: 6,
    draw: |random, shape| [shape.any_node(random), random.below(6), random.below(3)],
    inject: |run, [at, after, kind]| {
        let answers = match kind {
            0 => vec![Answer::Error(Interrupted)],
            1 => vec![Answer::Bytes(4096 + 512), Answer::Error(WouldBlock)],
            _ => vec![Answer::Error(WouldBlock), Answer::Bytes(4096), Answer::Error(Interrupted)],
        };
        run.set_fate(node(at), after, WriteFate::Answers(answers));
    },
};
