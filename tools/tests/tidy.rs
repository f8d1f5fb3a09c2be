//! The house linter: rules of this repository that neither the compiler nor clippy can hold.
//!
//! Each rule is a function from one source file to its faults, a table of where the rule does not apply (with the
//! reason), and a test over the whole tree. Rules look at code with comments and strings blanked out, unless they say
//! otherwise; what is under `tests/`, or in the `#[cfg(test)]` module at a file's foot, is test code.

use std::fs;
use std::path::{Path, PathBuf};

/// Where `unsafe` may stand. Each file opens with the protocol that makes it sound.
const UNSAFE_HOMES: &[&str] = &[
    "wal/src/disk/uring.rs",
    "wal/src/image.rs",
    "wal/tests/filter/mod.rs", // the filter of system calls of the tests of old kernels
    "tools/tests/support/ioctl.rs", // the one raw ioctl of the power loss test
];

/// Where threads start: a reader who asks "what runs beside what?" has this list to read.
const THREAD_HOMES: &[&str] = &[
    "engine/src/driver.rs",   // a shard's thread
    "engine/src/node.rs",     // starts the shards
    "engine/src/watchdog.rs", // writes its lines beside itself
    "wal/src/disk/",          // pre-writing, and the portable driver's writers
    "wal/src/read.rs",        // cold reads
    "engine/examples/",
    "bench/",
    "tools/",
    "net/src/saving.rs",
];

/// Where tokio is named: the network, the one file that sleeps, and the programs.
const TOKIO_HOMES: &[&str] = &[
    "net/",
    "engine/src/driver.rs",
    "engine/src/here.rs",
    "engine/src/inbox.rs",
    "engine/src/panics.rs",
    "engine/examples/",
    "bench/",
    "tools/",
];

/// Where the ring is named.
const RING_HOMES: &[&str] = &["wal/src/disk/uring.rs"];

/// The files that say that bytes are durable. The core's own files define `Durable`.
const DURABLE_HOMES: &[&str] = &["wal/src/stream.rs", "engine/raft/"];

const FILE_LINES_MAX: usize = 900;

/// The folders whose mutations stand in few files, and these files.
const MUTATION_HOMES: &[(&str, &[&str])] = &[
    ("engine/raft/src/", &["engine/raft/src/rules.rs"]),
    ("wal/src/", &["wal/src/rules.rs", "wal/src/disk/sim/"]),
];

/// Everything at the top of the repository; hidden files aside.
const TOP_LEVEL: &[&str] = &[
    "ARCHITECTURE.md",
    "CHANGELOG.md",
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE-APACHE",
    "LICENSE-MIT",
    "README.md",
    "bench",
    "clippy.toml",
    "deny.toml",
    "engine",
    "net",
    "rust-toolchain.toml",
    "rustfmt.toml",
    "target",
    "tools",
    "wal",
];

/// The folders the rules cover.
const FOLDERS: &[&str] = &["engine", "wal", "net", "bench", "tools", ".ci"];

#[test]
fn unsafe_code_stays_in_its_homes() {
    check(|source| source.outside(UNSAFE_HOMES, |line| has_word(line, "unsafe"), "unsafe code"));
}

#[test]
fn every_package_refuses_unsafe_code_at_its_root() {
    check(|source| {
        let root = source.path.ends_with("src/lib.rs")
            || source.path.ends_with("src/main.rs")
            || (source.path.contains("/src/bin/") && !source.path.ends_with("/mod.rs"));
        let wanted = if source.path == "wal/src/lib.rs" {
            "deny(unsafe_code)"
        } else {
            "forbid(unsafe_code)"
        };
        if root && !source.code.contains(&format!("#![{wanted}]")) {
            vec![format!("{}: no #![{wanted}]", source.path)]
        } else {
            vec![]
        }
    });
}

#[test]
fn every_source_file_says_what_it_is() {
    check(|source| {
        let first = source.text.lines().next().unwrap_or_default();
        let titled = first.strip_prefix("//! ").is_some_and(|title| title.trim().len() > 5);
        let placeholder = first.to_lowercase().contains("placeholder");
        if titled && !placeholder {
            vec![]
        } else {
            vec![format!("{}: does not open with its `//!` header", source.path)]
        }
    });
}

#[test]
fn nothing_is_left_for_later() {
    // Comments count here: the first four stand in them. Spelled apart, so that this file passes.
    let words =
        [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("X", "XX"), concat!("HA", "CK")];
    let calls = [concat!("to", "do!("), concat!("unimplemented", "!("), concat!("#[ig", "nore")];
    check(|source| {
        source.lines(
            &source.text,
            |line| {
                words.iter().any(|word| has_word(line, word))
                    || calls.iter().any(|call| line.contains(call))
            },
            "something left for later",
        )
    });
}

#[test]
fn only_the_log_says_what_is_durable() {
    check(|source| {
        source.outside(DURABLE_HOMES, |line| line.contains("Durable::new"), "Durable made")
    });
}

/// The files of the roles show the rules of the protocol, and those of the log the rules of the log, and nothing else.
#[test]
fn mutations_of_the_raft_core_and_of_the_log_stand_among_their_rules() {
    check(|source| {
        let of = MUTATION_HOMES.iter().find(|(folder, _)| source.path.starts_with(folder));
        let Some((_, homes)) = of else { return Vec::new() };
        let is_mutation = |line: &str| has_word(line, "bug") && line.contains("bug!(");
        source.outside(homes, is_mutation, "a mutation")
    });
}

#[test]
fn threads_start_in_few_files() {
    check(|source| {
        let starts = |line: &str| {
            ["thread::Builder", "thread::spawn", "thread::scope", "spawn_blocking"]
                .iter()
                .any(|call| line.contains(call))
        };
        source.outside(THREAD_HOMES, starts, "a thread started")
    });
}

#[test]
fn tokio_and_the_ring_have_their_places() {
    check(|source| {
        let mut faults = source.outside(TOKIO_HOMES, |line| has_path(line, "tokio"), "tokio");
        faults.extend(source.outside(RING_HOMES, |line| has_path(line, "io_uring"), "io_uring"));
        faults
    });
}

#[test]
fn a_file_has_one_subject_and_an_end() {
    check(|source| {
        let lines = source.text.lines().count();
        if lines > FILE_LINES_MAX {
            vec![format!("{}: {lines} lines", source.path)]
        } else {
            vec![]
        }
    });
}

#[test]
fn no_file_knows_the_machine_it_was_written_on() {
    let places = [
        concat!("/wo", "rk/"),
        concat!("/tmp/", "bash_jobs"),
        concat!("/ro", "ot/"),
        concat!("/tmp/", "wt/"),
    ];
    let mut faults = Vec::new();
    for (path, text) in texts() {
        for (at, line) in text.lines().enumerate() {
            if places.iter().any(|place| line.contains(place)) {
                faults.push(format!("{path}:{}: a path of one machine", at + 1));
            }
        }
    }
    assert!(faults.is_empty(), "\n{}\n", faults.join("\n"));
}

#[test]
fn prose_names_only_files_that_exist() {
    let texts = texts();
    let exists = |named: &str| {
        let is_it = |path: &str| path == named || path.ends_with(&format!("/{named}"));
        texts.iter().any(|(path, _)| is_it(path)) || root().join(named).exists()
    };
    let mut faults = Vec::new();
    for (path, at, line) in prose(&texts) {
        let (paths, names) = (paths_in(&line), file_names_in(&line));
        let names = names.into_iter().filter(|name| !paths.contains(name)).collect::<Vec<_>>();
        for named in paths.iter().chain(&names).filter(|named| !exists(named)) {
            faults.push(format!("{path}:{at}: {named} does not exist"));
        }
    }
    assert!(faults.is_empty(), "\n{}\n", faults.join("\n"));
}

#[test]
fn every_rule_that_is_cited_stands_in_the_rules() {
    let texts = texts();
    let known: Vec<String> = rules(&texts).into_iter().map(|rule| rule.name).collect();
    let mut faults = Vec::new();
    for (path, at, line) in prose(&texts) {
        for cited in cited_in(&line).into_iter().filter(|cited| !known.contains(cited)) {
            if !NO_RULES.iter().any(|(of, names, _)| path == *of && names.contains(&&*cited)) {
                faults.push(format!("{path}:{at}: {cited} is cited and not in {RULES}"));
            }
        }
    }
    assert!(faults.is_empty(), "\n{}\n", faults.join("\n"));
}

#[test]
fn every_rule_names_a_test_that_exists() {
    let texts = texts();
    let text = |path: &str| texts.iter().find(|(of, _)| of == path).map(|(_, text)| &**text);
    let bugs = text(BUGS).expect("the bug bank");
    let mut faults = Vec::new();
    let mut named = Vec::new();
    for rule in rules(&texts) {
        let mut fault = |what| faults.push(format!("{RULES}:{}: {}: {what}", rule.at, rule.name));
        if named.contains(&rule.name) {
            fault("stands there twice".to_owned());
        }
        for shown in &rule.shown_by {
            match shown {
                Shown::Test { file, test } => match text(file) {
                    None => fault(format!("{file} does not exist")),
                    Some(text) if !has_test(text, test) => {
                        fault(format!("{file} has no test {test}"));
                    }
                    Some(_) => {}
                },
                Shown::Transcript(file) if text(file).is_none() => {
                    fault(format!("{file} does not exist"));
                }
                Shown::Mutation(name) if !bugs.contains(&format!("\"{name}\"")) => {
                    fault(format!("{BUGS} has no mutation {name}"));
                }
                Shown::Transcript(_) | Shown::Mutation(_) => {}
            }
        }
        if rule.shown_by.is_empty() {
            fault("no test, transcript or mutation shows it".to_owned());
        }
        named.push(rule.name);
    }
    assert!(named.len() > 100, "only {} rules were found", named.len());
    assert!(faults.is_empty(), "\n{}\n", faults.join("\n"));
}

#[test]
fn the_simulator_checks_the_invariants_that_the_rules_name() {
    let texts = texts();
    let rules = rules(&texts).into_iter().filter(|rule| rule.name.starts_with("invariant "));
    let mut written: Vec<String> = rules
        .filter(|rule| !rule.title.is_empty()) // without a title: checked elsewhere
        .map(|rule| format!("{} {}", rule.name.trim_start_matches("invariant "), rule.title))
        .collect();
    let sources = texts.iter().filter(|(path, _)| {
        path.starts_with("engine/src/testing/invariants/")
            || ["engine/src/testing/sim.rs", "engine/src/testing/connections.rs"].contains(&&**path)
    });
    let mut checked: Vec<String> = sources
        .flat_map(|(_, text)| text.split('"').skip(1).step_by(2))
        .filter(|name| {
            let number = name.split(' ').next().unwrap();
            !number.is_empty() && number.len() <= 2 && number.bytes().all(|b| b.is_ascii_digit())
        })
        .filter(|name| name.len() > 4 && !name.contains(['{', ':']))
        .map(str::to_owned)
        .collect();
    for names in [&mut written, &mut checked] {
        names.sort();
        names.dedup();
    }
    let only = |these: &[String], those: &[String]| -> Vec<String> {
        these.iter().filter(|name| !those.contains(name)).cloned().collect()
    };
    let (unchecked, unwritten) = (only(&written, &checked), only(&checked, &written));
    assert!(unchecked.is_empty(), "in {RULES}, and checked by nobody: {unchecked:?}");
    assert!(unwritten.is_empty(), "checked by the simulator, and not in {RULES}: {unwritten:?}");
}

/// The law, and the list of mutations that it names.
const RULES: &str = "engine/RULES.md";
const BUGS: &str = "engine/src/testing/bugs.rs";

/// Words that look like rules and are none: the file, the words, the reason.
const NO_RULES: &[(&str, &[&str], &str)] = &[(
    "engine/raft/tests/scripts/figure_8.txt",
    &["S1", "S2", "S3", "S4", "S5"],
    "the servers of the paper's figure",
)];

/// One rule of the law.
struct Rule {
    /// As it is cited: `rule 17`, `W7`, `invariant 19`.
    name: String,
    /// An invariant's name in words.
    title: String,
    at: usize,
    shown_by: Vec<Shown>,
}

enum Shown {
    Test { file: String, test: String },
    Transcript(String),
    Mutation(String),
}

/// The rules of the law: `- **NAME.** Text. Shown by ...`, up to the next one.
fn rules(texts: &[(String, String)]) -> Vec<Rule> {
    let (_, text) = texts.iter().find(|(path, _)| path == RULES).expect("the law is in the tree");
    let mut rules: Vec<(usize, String)> = Vec::new();
    let mut is_rule = false;
    for (at, line) in text.lines().enumerate() {
        if line.starts_with("- **") {
            rules.push((at + 1, String::new()));
        }
        is_rule = line.starts_with("- **") || (is_rule && line.starts_with("  "));
        if let (true, Some((_, rule))) = (is_rule, rules.last_mut()) {
            rule.extend([line.trim_start(), " "]);
        }
    }
    let rules = rules.into_iter().map(|(at, rule)| {
        let (head, body) = rule[4..].split_once(".**").expect("a name between asterisks");
        let (name, title) = head.split_once(", ").unwrap_or((head, ""));
        let is_number = name.bytes().all(|byte| byte.is_ascii_digit());
        let name = if is_number { format!("rule {name}") } else { name.replace("Inv", "inv") };
        let shown = body.split_once("Shown by ").map_or("", |(_, shown)| shown);
        Rule { name, title: title.to_owned(), at, shown_by: shown_in(shown) }
    });
    rules.collect()
}

/// Paths, names of tests behind their path, and mutations behind that word; each between backticks.
fn shown_in(text: &str) -> Vec<Shown> {
    let mut shown = Vec::new();
    let (mut file, mut of_mutations) = (String::new(), false);
    for (at, part) in text.split('`').enumerate() {
        if at % 2 == 0 {
            of_mutations |= has_word(part, "mutation") || has_word(part, "mutations");
        } else if part.contains('/') {
            (file, of_mutations) = (part.to_owned(), false);
            if part.ends_with(".txt") {
                shown.push(Shown::Transcript(part.to_owned()));
            }
        } else if of_mutations {
            shown.push(Shown::Mutation(part.to_owned()));
        } else {
            shown.push(Shown::Test { file: file.clone(), test: part.to_owned() });
        }
    }
    shown
}

/// Whether a file has a test of that name: marked as one, or in the list of a macro that makes tests.
fn has_test(text: &str, name: &str) -> bool {
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let is_marked = |at: usize| {
        let above = lines[..at].iter().rev();
        above.take_while(|line| line.starts_with(['#', '/'])).any(|line| line.ends_with("test]"))
    };
    let is_it = |line: &str| line.contains(&format!("fn {name}("));
    let found = (0..lines.len()).find(|&at| is_it(lines[at]));
    found.is_some_and(|at| is_marked(at) || lines.contains(&&*format!("{name},")))
}

/// The text written for people: whole documents, and the comments and strings of code. Path, line's number, line.
fn prose(texts: &[(String, String)]) -> Vec<(&str, usize, String)> {
    let mut prose = Vec::new();
    for (path, text) in texts.iter().filter(|(path, _)| path != "tools/tests/tidy.rs") {
        let written = if path.ends_with(".rs") {
            let code = blank(text);
            let kept = text.bytes().zip(code.bytes());
            let kept =
                kept.map(|(byte, code)| if byte == code && byte != b'\n' { b' ' } else { byte });
            String::from_utf8(kept.collect()).unwrap()
        } else if path.ends_with(".md") || path.ends_with(".txt") {
            text.clone()
        } else {
            continue;
        };
        let lines = written.lines().enumerate();
        prose.extend(lines.map(|(at, line)| (&**path, at + 1, line.to_owned())));
    }
    prose
}

/// The rules that a line cites: `W7`, `rules 8, 26-28`, `invariants 4 (log matching) and 7`; of a range its ends.
fn cited_in(line: &str) -> Vec<String> {
    let words: Vec<&str> = line.split(|c: char| !c.is_alphanumeric() && c != '_').collect();
    let is_number = |word: &&str| word.len() <= 2 && word.parse::<u8>().is_ok();
    let mut cited = Vec::new();
    for word in &words {
        let mut letters = word.chars();
        let is_row = letters.next().is_some_and(|letter| "ABCDIMNPSTW".contains(letter));
        if is_row && is_number(&letters.as_str()) {
            cited.push((*word).to_owned());
        }
    }
    for kind in ["rule", "invariant"] {
        let lower = line.to_ascii_lowercase();
        for (at, _) in lower.match_indices(kind) {
            if lower[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_') {
                continue;
            }
            let behind = &lower[at + kind.len()..];
            let mut rest = behind.strip_prefix('s').unwrap_or(behind);
            while let Some(more) = ["-", ", ", " and ", " to ", " "]
                .iter()
                .filter_map(|between| rest.strip_prefix(between))
                .find(|more| more.starts_with(|c: char| c.is_ascii_digit()))
            {
                let end = more.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(more.len());
                if !is_number(&&more[..end]) {
                    break;
                }
                cited.push(format!("{kind} {}", &more[..end]));
                rest = &more[end..];
                // A remark in parentheses belongs to the number before it.
                if let Some((_, behind)) = rest.strip_prefix(" (").and_then(|r| r.split_once(')')) {
                    rest = behind;
                }
            }
        }
    }
    cited
}

/// Names of source files and documents that a line of prose names.
fn file_names_in(line: &str) -> Vec<String> {
    let in_path = |c: char| c.is_alphanumeric() || "/._-*{}<>$".contains(c);
    line.split(|c: char| !in_path(c))
        .map(|word| word.trim_end_matches('.'))
        .filter(|word| word.ends_with(".rs") || word.ends_with(".md"))
        .filter(|word| !word.contains(['*', '{', '<', '$']) && !word.starts_with(['.', '/']))
        .map(str::to_owned)
        .collect()
}

/// Modules whose arrows must not run in a circle: the folder, and how its files name each other.
const ARROWS: &[(&str, &str)] =
    &[("engine/src/", "crate"), ("engine/src/shard/", "super"), ("engine/src/testing/", "super")];

#[test]
fn arrows_within_the_engine_point_one_way() {
    for (folder, root) in ARROWS {
        let arrows = arrows(folder, root);
        // A module that points at no module left is taken away, again and again: modules that stay hold a circle.
        let mut left: Vec<_> = arrows.iter().collect();
        loop {
            let names: Vec<&str> = left.iter().map(|(name, _)| name.as_str()).collect();
            let before = left.len();
            left.retain(|(_, to)| to.iter().any(|to| names.contains(&to.as_str())));
            if left.len() == before {
                break;
            }
        }
        assert!(left.is_empty(), "{folder}: modules in a circle, or on the way to one: {left:?}");
    }
}

/// Each module of a folder and the others that its `use` lines name; a folder below it counts as one module.
fn arrows(folder: &str, root: &str) -> Vec<(String, Vec<String>)> {
    let module = |path: &str| {
        let name = path.strip_prefix(folder)?.split('/').next()?.trim_end_matches(".rs");
        // The roots name everything, and the tests of a file are a part of it.
        let is_one = !matches!(name, "lib" | "mod" | "testing") && !name.ends_with("_tests");
        is_one.then(|| name.to_owned())
    };
    let files: Vec<(String, Source)> = sources()
        .into_iter()
        .filter(|source| !source.path.ends_with("_tests.rs"))
        .filter_map(|source| Some((module(&source.path)?, source)))
        .collect();
    let mut names: Vec<String> = files.iter().map(|(name, _)| name.clone()).collect();
    names.sort();
    names.dedup();
    // A name that a root gives on under its own comes from one of the root's modules.
    let given_on = given_on(folder);
    let uses_of = |name: &String| {
        let own = files.iter().filter(|(of, _)| of == name);
        let used = own.flat_map(|(_, source)| used_in(source, root)).map(|word| {
            let from = given_on.iter().find(|(given, _)| *given == word);
            from.map_or(word.clone(), |(_, module)| module.clone())
        });
        let used: Vec<String> = used.collect();
        names.iter().filter(|other| *other != name && used.contains(other)).cloned().collect()
    };
    names.iter().map(|name| (name.clone(), uses_of(name))).collect()
}

/// The names that a folder's root gives on with `pub use MODULE::…`, and their modules.
fn given_on(folder: &str) -> Vec<(String, String)> {
    let roots = ["lib.rs", "mod.rs"].map(|name| format!("{folder}{name}"));
    let mut given = Vec::new();
    for source in sources().iter().filter(|source| roots.contains(&source.path)) {
        for path in source.code.split("use ").skip(1).filter_map(|path| path.split(';').next()) {
            let Some((module, names)) = path.trim().split_once("::") else { continue };
            let names = names.split(|c: char| !c.is_alphanumeric() && c != '_');
            let names = names.filter(|name| !name.is_empty());
            given.extend(names.map(|name| (name.to_owned(), module.to_owned())));
        }
    }
    given
}

/// The first word behind `root` in every `use` of a file's code, and the first word of each branch of a list there.
fn used_in(source: &Source, root: &str) -> Vec<String> {
    let code: Vec<&str> = source.code.lines().take(source.tests_at).collect();
    let code = code.join(" ");
    let mut used = Vec::new();
    for path in code.split("use ").skip(1).filter_map(|path| path.split(';').next()) {
        let path: String = path.chars().filter(|c| !c.is_whitespace()).collect();
        let path = path.trim_start_matches("crate::testing::").trim_start_matches("super::super::");
        let Some(path) = path.strip_prefix(root).and_then(|path| path.strip_prefix("::")) else {
            continue;
        };
        let mut depth = 0;
        let mut word = String::new();
        for c in path.chars().chain([',']) {
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                _ => {}
            }
            if c.is_alphanumeric() || c == '_' {
                word.push(c);
            } else if !word.is_empty() {
                // Behind a list's first level stands what a module has, not a module.
                if depth <= 1 {
                    used.push(std::mem::take(&mut word));
                }
                word.clear();
            }
        }
    }
    used
}

#[test]
fn the_top_level_holds_what_it_is_meant_to() {
    let mut strangers: Vec<String> = fs::read_dir(root())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| !name.starts_with('.') && !name.starts_with("logdrive-load-"))
        .filter(|name| !TOP_LEVEL.contains(&name.as_str()))
        .collect();
    strangers.sort();
    assert!(strangers.is_empty(), "not of the repository's top level: {strangers:?}");
}

/// One Rust file.
struct Source {
    /// From the repository's root.
    path: String,
    text: String,
    /// The text with comments and strings blanked out, line for line.
    code: String,
    /// The first line of test code at the file's foot, counted from 0; the number of lines if there is none.
    tests_at: usize,
}

impl Source {
    fn new(path: String, text: String) -> Self {
        let code = blank(&text);
        let lines: Vec<&str> = code.lines().collect();
        let tests_at = (1..lines.len())
            .find(|&at| {
                lines[at - 1].trim() == "#[cfg(test)]" && lines[at].starts_with("mod tests")
            })
            .unwrap_or(lines.len());
        Self { path, text, code, tests_at }
    }

    /// Places outside `homes` where a line of code that is not test code is `bad`.
    fn outside(&self, homes: &[&str], bad: impl Fn(&str) -> bool, what: &str) -> Vec<String> {
        let at_home = homes.iter().any(|home| {
            if home.ends_with('/') { self.path.starts_with(home) } else { self.path == *home }
        });
        // Tests may start threads, name tokio and make promises, but are not unsafe either.
        let tests_too = what == "unsafe code";
        if at_home || (self.is_test() && !tests_too) {
            return vec![];
        }
        let until = if tests_too { usize::MAX } else { self.tests_at };
        let code: String = self.code.lines().take(until).flat_map(|line| [line, "\n"]).collect();
        self.lines(&code, bad, &format!("{what} outside its homes"))
    }

    fn lines(&self, text: &str, bad: impl Fn(&str) -> bool, what: &str) -> Vec<String> {
        text.lines()
            .enumerate()
            .filter(|(_, line)| bad(line))
            .map(|(at, _)| format!("{}:{}: {what}", self.path, at + 1))
            .collect()
    }

    fn is_test(&self) -> bool {
        self.path.contains("/tests/")
            || self.path.contains("/benches/")
            || self.path.ends_with("/tests.rs")
    }
}

/// Runs a rule over every Rust file and shows all faults at once.
fn check(rule: impl Fn(&Source) -> Vec<String>) {
    let sources = sources();
    assert!(sources.len() > 20, "the walk found {} files: the tree is elsewhere", sources.len());
    let faults: Vec<String> = sources.iter().flat_map(rule).collect();
    assert!(faults.is_empty(), "\n{}\n", faults.join("\n"));
}

/// Every Rust file.
fn sources() -> Vec<Source> {
    let texts = texts().into_iter().filter(|(path, _)| path.ends_with(".rs"));
    texts.map(|(path, text)| Source::new(path, text)).collect()
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Every text file of the tree: its path from the root, and its text.
fn texts() -> Vec<(String, String)> {
    let mut files = Vec::new();
    let mut folders: Vec<PathBuf> = FOLDERS.iter().map(|folder| root().join(folder)).collect();
    files.extend(
        fs::read_dir(root())
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.is_file()),
    );
    while let Some(folder) = folders.pop() {
        let Ok(entries) = fs::read_dir(&folder) else { continue };
        for entry in entries {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_dir() && name != "target" && name != "proptest-regressions" {
                folders.push(path);
            } else if path.is_file() {
                files.push(path);
            }
        }
    }
    files.sort();
    let text = |path: PathBuf| {
        let name = path.strip_prefix(root()).unwrap().to_string_lossy().into_owned();
        fs::read_to_string(&path).ok().map(|text| (name, text)) // not UTF-8: not text
    };
    files
        .into_iter()
        .filter(|path| path.file_name() != Some(".git".as_ref()))
        .filter_map(text)
        .collect()
}

/// Whether `word` stands in `line` on its own.
fn has_word(line: &str, word: &str) -> bool {
    let in_word = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word).any(|(at, _)| {
        !line[..at].ends_with(in_word) && !line[at + word.len()..].starts_with(in_word)
    })
}

/// Whether `line` names something of the crate `name`.
fn has_path(line: &str, name: &str) -> bool {
    has_word(line, name)
        && (line.contains(&format!("{name}::")) || line.trim_start().starts_with("use "))
}

/// Paths into the tree that a line of prose names: words that start with one of its folders. Patterns are left out.
fn paths_in(line: &str) -> Vec<String> {
    let in_path = |c: char| c.is_alphanumeric() || "/._-*{}<>$".contains(c);
    line.split(|c: char| !in_path(c))
        .map(|word| word.trim_end_matches(['.', '/']))
        .filter(|word| FOLDERS.iter().any(|folder| word.starts_with(&format!("{folder}/"))))
        .filter(|word| !word.contains(['*', '{', '<', '$']))
        .map(str::to_owned)
        .collect()
}

/// Replaces comments and the insides of strings by spaces; line ends stay.
fn blank(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let rest = &bytes[at..];
        let skipped = if rest.starts_with(b"//") {
            rest.iter().position(|&byte| byte == b'\n').unwrap_or(rest.len())
        } else if rest.starts_with(b"/*") {
            block_comment(rest)
        } else if let Some(hashes) = raw_string(rest, at.checked_sub(1).map(|before| bytes[before]))
        {
            let open = hashes + 2;
            let close = [&b"\""[..], &b"#".repeat(hashes)].concat();
            let body = rest[open..].windows(close.len()).position(|window| window == close);
            body.map_or(rest.len(), |body| open + body + close.len())
        } else if rest[0] == b'"' {
            string(rest)
        } else if rest[0] == b'\'' {
            character(rest)
        } else {
            0
        };
        if skipped == 0 {
            out.push(rest[0]);
            at += 1;
        } else {
            out.extend(
                rest[..skipped].iter().map(|&byte| if byte == b'\n' { b'\n' } else { b' ' }),
            );
            at += skipped;
        }
    }
    String::from_utf8(out).unwrap()
}

fn block_comment(rest: &[u8]) -> usize {
    let (mut depth, mut at) = (0_usize, 0);
    while at + 1 < rest.len() {
        match &rest[at..at + 2] {
            b"/*" => (depth, at) = (depth + 1, at + 2),
            b"*/" => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            return at;
        }
    }
    rest.len()
}

/// The number of hashes if a raw string starts here.
fn raw_string(rest: &[u8], before: Option<u8>) -> Option<usize> {
    if rest[0] != b'r'
        || before.is_some_and(|byte| byte != b'b' && (byte.is_ascii_alphanumeric() || byte == b'_'))
    {
        return None;
    }
    let hashes = rest[1..].iter().take_while(|&&byte| byte == b'#').count();
    (rest.get(1 + hashes) == Some(&b'"')).then_some(hashes)
}

fn string(rest: &[u8]) -> usize {
    let mut at = 1;
    while at < rest.len() {
        match rest[at] {
            b'\\' => at += 2,
            b'"' => return at + 1,
            _ => at += 1,
        }
    }
    rest.len()
}

/// A character literal's length; 0 for a lifetime.
fn character(rest: &[u8]) -> usize {
    if rest.get(1) == Some(&b'\\') {
        return rest[3..].iter().position(|&byte| byte == b'\'').map_or(0, |at| at + 4);
    }
    // One character of up to four bytes, then the closing quote.
    (2..=5)
        .find(|&at| {
            rest.get(at) == Some(&b'\'')
                && str::from_utf8(&rest[1..at]).is_ok_and(|c| c.chars().count() == 1)
        })
        .map_or(0, |at| at + 1)
}

#[test]
fn comments_and_strings_are_not_code() {
    let text = "a // unsafe\n/* unsafe /* x */ unsafe */ b \"unsafe \\\" unsafe\" c r#\"unsafe \" \"# d '\"' e 'x f '\\'' g";
    let code = blank(text);
    assert_eq!(code.len(), text.len());
    assert_eq!(
        code.split_whitespace().collect::<Vec<_>>(),
        ["a", "b", "c", "d", "e", "'x", "f", "g"]
    );
}

#[test]
fn a_fault_is_found_and_its_line_named() {
    let text = "//! A file.\nfn f() {\n    unsafe { g() }\n}\n#[cfg(test)]\nmod tests {\n    use tokio::x;\n}\n";
    let source = Source::new("net/src/x.rs".into(), text.into());
    let found = source.outside(UNSAFE_HOMES, |line| has_word(line, "unsafe"), "unsafe code");
    assert_eq!(found, ["net/src/x.rs:3: unsafe code outside its homes"]);
    assert!(
        source.outside(RING_HOMES, |line| has_path(line, "tokio"), "tokio").is_empty(),
        "it is in the tests"
    );
    assert!(has_path("    tokio::spawn(x)", "tokio") && !has_path("let tokio = 1;", "tokio"));
    assert!(!has_word("#![forbid(unsafe_code)]", "unsafe"));
}

#[test]
fn paths_are_found_in_prose() {
    let line = "see `wal/src/disk/uring.rs`, (engine/raft/) and tools/tests/*.rs; not a/b or https://net/x.";
    assert_eq!(paths_in(line), ["wal/src/disk/uring.rs", "engine/raft"]);
}

#[test]
fn citations_are_found_in_prose() {
    let line = "//! Source: RULES.md rules 8, 26-28 (order), 30; W9, C1-C3; invariants 4 (log matching) and 7. 12";
    let mut cited = cited_in(line);
    cited.sort();
    let wanted = ["C1", "C3", "W9", "invariant 4", "invariant 7"];
    assert_eq!(cited[..5], wanted);
    assert_eq!(cited[5..], ["rule 26", "rule 28", "rule 30", "rule 8"]);
    assert!(cited_in("ruled 3, C1x, W1234, a1, drule 4").is_empty());
    assert_eq!(file_names_in("see `maker.rs`, a/b.rs and *.rs."), ["maker.rs", "a/b.rs"]);
}
