//! Counts of a committed command, by part: read from valgrind's files, compared with those in the tree.
//!
//! In:     what callgrind and DHAT wrote of the bench `counts`; `bench/COUNTS.txt`.
//! Out:    a [`Table`] of instructions, cache misses and allocations; the counts in it that have grown.
//! Fails:  a part of which nothing was counted: the names in `part_of` are not those of the code any more.
//! Source: the formats' own pages: callgrind's "cl-format", DHAT's "dhatFileVersion 2".
//!
//! Each instruction and each allocation belongs to the innermost part on its stack. Callgrind is told to keep callers
//! apart (`--separate-callers`), so that a function's own cost is known for each way into it.

use std::{collections::BTreeMap, fmt};

use serde::Deserialize;

/// The parts of a command's way, in its order; see `engine/src/counts.rs`.
pub const PARTS: [&str; 6] = ["propose", "append", "receive", "acknowledge", "commit", "apply"];

/// Commands that are counted in each shape: 200 for each of 48 groups, one for about every tenth of 100,000.
pub const COMMANDS: u64 = 9_600;

/// Instructions may grow by this share before the growth must be declared. Allocations may not grow at all.
const GROWTH_MAX: f64 = 0.03;

/// The costs of one command, or of all commands, in one part.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Counts {
    /// Instructions.
    pub instructions: f64,
    /// Misses of the first level's caches.
    pub l1_misses: f64,
    /// Misses of the last level's cache.
    pub ll_misses: f64,
    /// Allocations.
    pub allocations: f64,
    /// Their bytes.
    pub bytes: f64,
}

/// Counts by number of groups and part.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Table(BTreeMap<u64, [Counts; PARTS.len()]>);

/// The part that begins with this function, if one does.
fn part_of(function: &str) -> Option<usize> {
    let name = match function {
        f if f.contains("logdrive_wal::stream::") => "append",
        f if f.contains("logdrive::apply::run") => "apply",
        f if f.contains("logdrive::shard::core::Shard::applied") => "apply",
        f if f.contains("logdrive::host::ShardHost::deliver") => "apply",
        f => f.split_once("logdrive::counts::Trio::")?.1.split(' ').next()?,
    };
    PARTS.iter().position(|part| *part == name)
}

impl Table {
    /// Adds a shape: `callgrind` and `dhat` are the files' contents.
    ///
    /// # Errors
    /// A sentence about what is not as it must be.
    pub fn add(&mut self, groups: u64, callgrind: &str, dhat: &str) -> Result<(), String> {
        let mut parts = [Counts::default(); PARTS.len()];
        read_callgrind(callgrind, &mut parts)?;
        read_dhat(dhat, &mut parts)?;
        for (name, part) in PARTS.iter().zip(&mut parts) {
            if part.instructions == 0.0 {
                return Err(format!("nothing was counted in the part {name}: was it renamed?"));
            }
            *part = part.map(|count| count / COMMANDS as f64);
        }
        // Rounded as in the file, so that equal counts compare equal.
        self.0.insert(groups, parts.map(|part| part.map(|count| (count * 1e4).round() / 1e4)));
        Ok(())
    }

    /// Takes the shapes of `newer` in place of those here.
    pub fn update(&mut self, newer: Self) {
        self.0.extend(newer.0);
    }

    /// The counts of `newer` that are more than those here, a sentence each.
    #[must_use]
    pub fn growth(&self, newer: &Self) -> Vec<String> {
        let mut grown = Vec::new();
        for (groups, parts) in &newer.0 {
            let Some(before) = self.0.get(groups).map(sum) else {
                grown.push(format!("{groups} groups: not in the file"));
                continue;
            };
            let now = sum(parts);
            if now.instructions > before.instructions * (1.0 + GROWTH_MAX) {
                grown.push(format!(
                    "{groups} groups: {:.0} instructions per command, {:.0} in the file ({:+.1} %)",
                    now.instructions,
                    before.instructions,
                    (now.instructions / before.instructions - 1.0) * 100.0
                ));
            }
            // The tolerance is half a unit of the last digit that the file has.
            if now.allocations > before.allocations + 0.00005 {
                grown.push(format!(
                    "{groups} groups: {:.4} allocations per command, {:.4} in the file",
                    now.allocations, before.allocations
                ));
            }
        }
        grown
    }

    /// Reads what [`fmt::Display`] has written; lines that begin with `#` are comments.
    ///
    /// # Errors
    /// A sentence with the line.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut table = Self::default();
        for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let row = (|| {
                let [groups, part, counts @ ..] = &fields[..] else { return None };
                let counts: Vec<f64> =
                    counts.iter().map(|count| count.parse().ok()).collect::<Option<_>>()?;
                let [instructions, l1_misses, ll_misses, allocations, bytes] = counts[..] else {
                    return None;
                };
                let counts = Counts { instructions, l1_misses, ll_misses, allocations, bytes };
                Some((groups.parse::<u64>().ok()?, *part, counts))
            })();
            let (groups, part, counts) =
                row.ok_or_else(|| format!("not a row of counts: {line}"))?;
            let parts = table.0.entry(groups).or_default();
            match PARTS.iter().position(|known| *known == part) {
                Some(at) => parts[at] = counts,
                None if part == "all" => {}
                None => return Err(format!("no part of a command: {line}")),
            }
        }
        Ok(table)
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "# {:<6} {:<12} {:>14} {:>11} {:>11} {:>12} {:>12}",
            "groups", "part", "instructions", "L1 misses", "LL misses", "allocations", "bytes"
        )?;
        for (groups, parts) in &self.0 {
            let all = sum(parts);
            for (part, counts) in PARTS.iter().zip(parts).chain([(&"all", &all)]) {
                let Counts { instructions, l1_misses, ll_misses, allocations, bytes } = counts;
                writeln!(
                    f,
                    "{groups:<8} {part:<12} {instructions:>14.4} {l1_misses:>11.4} {ll_misses:>11.4} \
                     {allocations:>12.4} {bytes:>12.4}"
                )?;
            }
        }
        Ok(())
    }
}

impl Counts {
    fn map(self, f: impl Fn(f64) -> f64) -> Self {
        Self {
            instructions: f(self.instructions),
            l1_misses: f(self.l1_misses),
            ll_misses: f(self.ll_misses),
            allocations: f(self.allocations),
            bytes: f(self.bytes),
        }
    }
}

fn sum(parts: &[Counts; PARTS.len()]) -> Counts {
    parts.iter().fold(Counts::default(), |sum, part| Counts {
        instructions: sum.instructions + part.instructions,
        l1_misses: sum.l1_misses + part.l1_misses,
        ll_misses: sum.ll_misses + part.ll_misses,
        allocations: sum.allocations + part.allocations,
        bytes: sum.bytes + part.bytes,
    })
}

/// Adds each function's own costs. They stand under its `fn=` line, which names the function and behind it its callers.
/// The line of costs that follows a `calls=` line is of the function that was called, and is left out.
fn read_callgrind(text: &str, parts: &mut [Counts; PARTS.len()]) -> Result<(), String> {
    let events = "events: Ir Dr Dw I1mr D1mr D1mw ILmr DLmr DLmw";
    if !text.lines().any(|line| line == events) {
        return Err(format!("callgrind's file has no line \"{events}\""));
    }
    let (mut part, mut is_called) = (None, false);
    for line in text.lines() {
        if let Some(stack) = line.strip_prefix("fn=") {
            part = stack.split('\'').find_map(part_of);
        } else if line.starts_with("calls=") {
            is_called = true;
        } else if line.starts_with(|first: char| first.is_ascii_digit() || "+-*".contains(first)) {
            let is_own = !std::mem::take(&mut is_called);
            let Some(part) = part.filter(|_| is_own) else { continue };
            let mut costs = [0.0; 9];
            for (cost, field) in costs.iter_mut().zip(line.split_whitespace().skip(1)) {
                *cost = field.parse().map_err(|_| format!("not a line of costs: {line}"))?;
            }
            let [instructions, _, _, i1, d1_read, d1_write, il, dl_read, dl_write] = costs;
            parts[part].instructions += instructions;
            parts[part].l1_misses += i1 + d1_read + d1_write;
            parts[part].ll_misses += il + dl_read + dl_write;
        }
    }
    Ok(())
}

#[derive(Deserialize)]
struct Dhat {
    pps: Vec<ProgramPoint>,
    ftbl: Vec<String>,
}

#[derive(Deserialize)]
struct ProgramPoint {
    #[serde(rename = "tb")]
    bytes: u64,
    #[serde(rename = "tbk")]
    blocks: u64,
    #[serde(rename = "fs")]
    frames: Vec<usize>,
}

/// Adds what each place allocated. The stack of a place begins with the innermost function.
fn read_dhat(text: &str, parts: &mut [Counts; PARTS.len()]) -> Result<(), String> {
    let dhat: Dhat = serde_json::from_str(text).map_err(|error| format!("DHAT's file: {error}"))?;
    for point in dhat.pps {
        let stack = || point.frames.iter().map(|frame| dhat.ftbl[*frame].as_str());
        if !stack().any(|frame| frame.contains("logdrive::counts::Trio::measure")) {
            continue; // Allocated while it warmed up.
        }
        if let Some(part) = stack().find_map(part_of) {
            parts[part].allocations += point.blocks as f64;
            parts[part].bytes += point.bytes as f64;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const CALLGRIND: &str = "\
events: Ir Dr Dw I1mr D1mr D1mw ILmr DLmr DLmw

fn=logdrive::counts::Trio::measure'main
10 4795200
calls=1 20
10 24000000

fn=logdrive::counts::Trio::propose'logdrive::counts::Trio::measure'main
20 480000 4800 4800 4800 9600 14400 19200 24000 28800
calls=1 30
+1 3360000 4800 4800 4800 4800 4800 4800 4800 4800
* 48000

fn=malloc'logdrive_wal::stream::append::<impl logdrive_wal::stream::Wal>::append'logdrive::counts::Trio::propose
30 3360000
fn=logdrive_raft::raft::Raft::step'logdrive::counts::Node::turn'logdrive::counts::Trio::receive'main
1 96000
fn=logdrive_raft::raft::Raft::step'logdrive::counts::Node::turn'logdrive::counts::Trio::acknowledge'main
1 144000
fn=logdrive_raft::raft::Raft::step'logdrive::counts::Node::turn'logdrive::counts::Trio::commit'main
1 192000
fn=logdrive::apply::run'logdrive::turn::Turn::give_out'logdrive::counts::Trio::commit'main
-5 240000
";

    const DHAT: &str = r#"{"dhatFileVersion":2,"pps":[
        {"tb":307200,"tbk":19200,"fs":[0,1,2,3]},{"tb":38400,"tbk":9600,"fs":[0,1]},{"tb":28800,"tbk":9600,"fs":[0,4,1,2,3]}],
        "ftbl":["malloc","0x1: logdrive::counts::Trio::propose (counts.rs:1)",
        "0x2: logdrive::counts::Trio::round (counts.rs:2)", "0x3: logdrive::counts::Trio::measure (counts.rs:3)",
        "0x4: logdrive_wal::stream::Wal::submit (stream.rs:4)"]}"#;

    fn table(callgrind: &str) -> Table {
        let mut table = Table::default();
        table.add(48, callgrind, DHAT).unwrap();
        table
    }

    #[test]
    fn a_cost_belongs_to_the_innermost_part_on_its_stack() {
        let parts = table(CALLGRIND).0[&48];
        assert_eq!(parts.map(|part| part.instructions), [55.0, 350.0, 10.0, 15.0, 20.0, 25.0]);
        assert_eq!((parts[0].l1_misses, parts[0].ll_misses), (3.0, 7.5));
        assert_eq!((parts[0].allocations, parts[0].bytes), (2.0, 32.0), "none from warming up");
        assert_eq!((parts[1].allocations, parts[1].bytes), (1.0, 3.0));
    }

    #[test]
    fn a_part_that_is_not_found_is_an_error() {
        let renamed = CALLGRIND.replace("Trio::receive", "Trio::hear");
        let error = Table::default().add(48, &renamed, DHAT).unwrap_err();
        assert_eq!(error, "nothing was counted in the part receive: was it renamed?");
    }

    #[test]
    fn what_was_written_is_read_back() {
        let table = table(CALLGRIND);
        assert_eq!(Table::parse(&format!("# text\n{table}")), Ok(table));
        assert!(Table::parse("48 propose 1 2 3").is_err());
        assert!(Table::parse("48 dispose 1 2 3 4 5").is_err());
    }

    #[test]
    fn three_in_a_hundred_instructions_may_come_and_no_allocation() {
        let before = table(CALLGRIND);
        let grown = |instructions: f64, allocations: f64| {
            let mut now = before.clone();
            let part = &mut now.0.get_mut(&48).unwrap()[1];
            part.instructions += instructions;
            part.allocations += allocations;
            before.growth(&now).len()
        };
        // 475 instructions in all.
        assert_eq!(grown(14.0, 0.0), 0);
        assert_eq!(grown(14.5, 0.0), 1);
        assert_eq!(grown(-100.0, -1.0), 0);
        assert_eq!(grown(0.0, 0.0001), 1);
        assert_eq!(Table::default().growth(&before).len(), 1, "the file lacks the shape");
    }
}
