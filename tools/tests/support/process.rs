//! Child processes that do not outlive their test, and commands that must end by themselves.
//!
//! In:     commands.
//! Out:    [`Process`], a child that is killed by its id when it is dropped; [`run`], [`output_within`], [`refusal`].
//! Fails:  by panicking, with what the command wrote.

use super::eventually;
use std::{
    ops::{Deref, DerefMut},
    process::{Child, Command, Output, Stdio},
    time::Duration,
};

pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_logdrive");

/// A child process. Dropping it kills it, also when a test panics.
#[derive(Debug)]
pub(crate) struct Process(Option<Child>);

impl Process {
    pub(crate) fn spawn(command: &mut Command) -> Self {
        Self(Some(command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"))))
    }

    /// Waits until it ends, and gives what it wrote to the pipes that the test has not taken.
    pub(crate) fn output(mut self) -> Output {
        self.0.take().expect("a child until now").wait_with_output().unwrap()
    }
}

impl Deref for Process {
    type Target = Child;

    fn deref(&self) -> &Child {
        self.0.as_ref().expect("a child until it is dropped")
    }
}

impl DerefMut for Process {
    fn deref_mut(&mut self) -> &mut Child {
        self.0.as_mut().expect("a child until it is dropped")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Runs a program to its end; gives what it said.
pub(crate) fn run(program: &str, words: &[&str]) -> Result<String, String> {
    let output = Command::new(program)
        .args(words)
        .output()
        .map_err(|error| format!("{program}: {error}"))?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    } else {
        let why = String::from_utf8_lossy(&output.stderr);
        Err(format!("{program} {}: {}", words.join(" "), why.trim()))
    }
}

/// Runs a command that must end by itself, and kills it if it does not. Its output must fit into a pipe; its
/// standard input stays open meanwhile.
pub(crate) fn output_within(mut command: Command, within: Duration) -> Output {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = Process::spawn(&mut command);
    let ended = eventually(within, || child.try_wait().unwrap().is_some());
    if !ended {
        child.kill().unwrap();
    }
    let output = child.output();
    assert!(
        ended,
        "{command:?} still ran after {within:?}: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

/// Runs a command that must fail by itself with an exit code, and without a panic, and gives what it wrote to standard
/// error: one line, unless it is about the use of the command line.
pub(crate) fn refusal(command: Command) -> String {
    let shown = format!("{command:?}");
    let output = output_within(command, REFUSED_MAX);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success(), "{shown} ended with {}:\n{said}", output.status);
    let code = output.status.code();
    let code = code.unwrap_or_else(|| panic!("{shown} ended by {}:\n{said}", output.status));
    assert!(code != 101 && !said.contains("panicked"), "{shown} panicked:\n{said}");
    assert!(output.stdout.is_empty(), "{shown} wrote to standard output");
    assert!(code != 1 || said.lines().count() == 1, "{shown} wrote more than a line:\n{said}");
    said
}

const REFUSED_MAX: Duration = Duration::from_secs(30);
