//! The log lines of a node: which of them are written, and their way to standard error, for which no thread of the node
//! waits.
//!
//! In:     the environment's `LOGDRIVE_LOG`; the lines of the engine and the server.
//! Out:    lines on standard error. A reader that stands still loses lines, and is told later how many.
//! Cost:   a thread, and [`LINES_MAX`] lines of memory.
//! Fails:  with a filter that cannot be read, or that is surely not meant. A standard error that is broken or stuck is
//!         no error: the end of a node waits for it a second at most, and so does a panic, whose text leaves behind the
//!         lines that were there before it.
//! Source: RULES.md D9.

use super::options::OptionsError;
use std::{
    backtrace::{Backtrace, BacktraceStatus},
    io::{self, IsTerminal, Write},
    panic::PanicHookInfo,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tracing_appender::non_blocking::{ErrorCounter, NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;

/// The way of log lines to standard error. It is open as long as this value lives.
pub(super) struct LogOutput {
    lost: ErrorCounter,
    told: usize,
    /// Until the end.
    writer: Option<WorkerGuard>,
}

impl LogOutput {
    /// Lines go to standard error from now on: warnings and errors, or those that `LOGDRIVE_LOG` names.
    ///
    /// # Errors
    /// [`OptionsError`] for a filter that cannot be read, or that names no level where it seems to mean one.
    pub(super) fn begin() -> Result<Self, OptionsError> {
        let said = std::env::var_os(VARIABLE).unwrap_or_default();
        let said = said.to_str().ok_or_else(|| bad("is no text"))?;
        let filter = filter(said)?;
        let (lines, guard) = Lines::to(io::stderr());
        let lost = lines.writer.error_counter();
        // A panic ends the process, mostly at once: the lines that say how it came to that must not be lost.
        let last_lines = lines.clone();
        std::panic::set_hook(Box::new(move |panic| last_lines.end_with(panic)));
        let subscriber = tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_writer(move || lines.clone())
            // Colours are for terminals; a file, which other programs read, gets nothing but text.
            .with_ansi(io::stderr().is_terminal())
            // The subscriber would write its own errors to the same standard error, by a macro that panics if standard
            // error is broken.
            .log_internal_errors(false);
        // Fails only where a subscriber is set already, and then that one is wanted.
        let _ = subscriber.try_init();
        Ok(Self { lost, told: 0, writer: Some(guard) })
    }

    /// Says how many lines were lost since this was last called, if any were.
    pub(super) fn report_lost_lines(&mut self) {
        let lost = self.lost.dropped_lines();
        if lost > self.told {
            let lines = lost - self.told;
            tracing::warn!(lines, "log lines were lost, because nobody read standard error");
            // If this line was lost, too, the next one counts all of them.
            if self.lost.dropped_lines() == lost {
                self.told = lost;
            }
        }
    }
}

/// Takes lines, each with one call of `write`, and waits for nobody.
#[derive(Clone)]
struct Lines {
    writer: NonBlocking,
    taken: Arc<AtomicUsize>,
    written: Arc<AtomicUsize>,
}

impl Lines {
    /// A write to a pipe that nobody reads blocks, and would block the shard that logs: so lines have a thread.
    fn to(out: impl Write + Send + 'static) -> (Self, WorkerGuard) {
        let written = Arc::new(AtomicUsize::new(0));
        let (writer, guard) = NonBlockingBuilder::default()
            .lossy(true)
            .buffered_lines_limit(LINES_MAX)
            .thread_name("log lines")
            .finish(Counted { out, written: Arc::clone(&written) });
        (Self { writer, taken: Arc::default(), written }, guard)
    }

    /// Waits until all lines that were taken are written or lost, for half a second at most.
    fn wait(&self) {
        let taken = self.taken.load(Ordering::Acquire);
        let is_left = || {
            let lost = self.writer.error_counter().dropped_lines();
            self.written.load(Ordering::Acquire) + lost < taken
        };
        for _ in 0..500 {
            if !is_left() {
                return;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Writes the text of a panic behind all lines before it.
    fn end_with(&self, panic: &PanicHookInfo<'_>) {
        let thread = std::thread::current();
        let mut text = format!("thread '{}' {panic}\n", thread.name().unwrap_or("without a name"));
        let backtrace = Backtrace::capture();
        if backtrace.status() == BacktraceStatus::Captured {
            text.push_str(&format!("stack backtrace:\n{backtrace}"));
        }
        // Where many lines wait there is no room for the text before they are written.
        self.wait();
        let _ = self.clone().write(text.as_bytes());
        self.wait();
    }
}

impl Write for Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.taken.fetch_add(1, Ordering::AcqRel);
        self.writer.write(line)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Counts the lines that its thread writes.
struct Counted<W> {
    out: W,
    written: Arc<AtomicUsize>,
}

impl<W: Write> Write for Counted<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.out.write(bytes)
    }

    /// The thread calls this once for each line.
    fn write_all(&mut self, line: &[u8]) -> io::Result<()> {
        let result = self.out.write_all(line);
        self.written.fetch_add(1, Ordering::AcqRel);
        result
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

impl Drop for LogOutput {
    /// The lines that wait are written, for a second at most. The library's own end writes to standard output where standard
    /// error is stuck, and that may be stuck or broken as well: so it has a thread that nobody waits for any longer.
    fn drop(&mut self) {
        let Some(writer) = self.writer.take() else { return };
        let (ended, has_ended) = std::sync::mpsc::sync_channel(1);
        let ending =
            std::thread::Builder::new().name("log lines end".to_owned()).spawn(move || {
                drop(writer);
                let _ = ended.send(());
            });
        if ending.is_ok() {
            let _ = has_ended.recv_timeout(Duration::from_secs(1));
        }
    }
}

fn filter(said: &str) -> Result<EnvFilter, OptionsError> {
    if said.trim().is_empty() {
        return Ok(EnvFilter::new(DEFAULT));
    }
    // A word that is no level is taken for a module's name, and then hides the lines of all others.
    let is_plain = |word: &&str| !word.is_empty() && !word.contains(['=', ':', '[']);
    let plain = said.split(',').map(str::trim).filter(is_plain);
    for word in plain {
        if !LEVELS.iter().any(|level| word.eq_ignore_ascii_case(level)) {
            return Err(bad(&format!(
                "has '{word}', which is none of the levels {}; for one module write {word}=info",
                LEVELS.join(", ")
            )));
        }
    }
    EnvFilter::builder().parse(said).map_err(|error| bad(&format!("cannot be read: {error}")))
}

fn bad(why: &str) -> OptionsError {
    OptionsError(format!("{VARIABLE} {why}"))
}

const VARIABLE: &str = "LOGDRIVE_LOG";
const DEFAULT: &str = "warn";
const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
/// Lines that may wait for standard error.
const LINES_MAX: usize = 4_096;

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    /// Ends the process as every thread of a node does that panics.
    struct Abort;

    impl Drop for Abort {
        fn drop(&mut self) {
            std::process::abort();
        }
    }

    /// RULES.md D9. The bug: a panic aborted the process while the lines that said why were still on their way.
    #[test]
    fn the_lines_before_a_panic_are_written_and_its_text_is_the_last_one() {
        const CHILD: &str = "LOGDRIVE_TEST_PANICS";
        const LINES: usize = 2_000;
        if std::env::var_os(CHILD).is_some() {
            let _output = LogOutput::begin().unwrap();
            let _abort = Abort;
            (0..LINES).for_each(|n| tracing::error!("line {n}."));
            panic!("an invariant is broken");
        }
        let this = "serve::log_output::tests::\
                    the_lines_before_a_panic_are_written_and_its_text_is_the_last_one";
        let child = Command::new(std::env::current_exe().unwrap())
            .args([this, "--exact", "--nocapture"])
            .env(CHILD, "1")
            .env("RUST_BACKTRACE", "0")
            .env_remove(VARIABLE)
            .stdout(Stdio::null())
            .output()
            .unwrap();
        assert_eq!(child.status.code(), None, "a signal ends it");
        let said = String::from_utf8(child.stderr).unwrap();
        let missing = (0..LINES).find(|n| !said.contains(&format!("line {n}.")));
        assert_eq!(missing, None, "{said}");
        let end: Vec<&str> = said.lines().rev().take(2).collect();
        assert!(end[0] == "an invariant is broken" && end[1].contains("panicked at"), "{end:?}");
    }

    /// RULES.md D9.
    #[test]
    fn a_panic_does_not_wait_for_a_standard_error_that_is_stuck() {
        struct Stuck;
        impl Write for Stuck {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                loop {
                    std::thread::park();
                }
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let (mut lines, guard) = Lines::to(Stuck);
        lines.write_all(b"a line\n").unwrap();
        lines.wait();
        assert_eq!(lines.written.load(Ordering::Acquire), 0);
        // The end of a guard writes to standard output while its thread is stuck.
        std::mem::forget(guard);
    }

    #[test]
    fn no_word_that_is_no_level_hides_all_lines() {
        for said in
            ["", " ", "warn", "WARN", "off", "info,logdrive_net=debug", "logdrive::host=trace"]
        {
            let read = filter(said).unwrap_or_else(|error| panic!("{said:?}: {error}"));
            assert!(said.trim() != "" || read.to_string() == DEFAULT, "{said:?}: {read}");
        }
        for said in ["warning", "verbose", "info,loud", "a=b=c"] {
            let error = filter(said).map(|read| read.to_string()).expect_err(said);
            assert!(error.to_string().starts_with("LOGDRIVE_LOG "), "{error}");
        }
    }
}
