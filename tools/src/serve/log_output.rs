//! The log lines of a node: which of them are written, and their way to standard error, for which no thread of the node
//! waits.
//!
//! In:     the environment's `LOGDRIVE_LOG`; the lines of the engine and the server.
//! Out:    lines on standard error. A reader that stands still loses lines, and is told later how many.
//! Cost:   a thread, and [`LINES_MAX`] lines of memory.
//! Fails:  with a filter that cannot be read, or that is surely not meant. A standard error that is broken or stuck is
//!         no error: the end of a node waits for it a second at most.
//! Source: RULES.md D9.

use super::options::OptionsError;
use std::{io::IsTerminal, time::Duration};
use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
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
        // A write to a pipe that nobody reads blocks, and would block the shard that logs.
        let (writer, guard) = NonBlockingBuilder::default()
            .lossy(true)
            .buffered_lines_limit(LINES_MAX)
            .thread_name("log lines")
            .finish(std::io::stderr());
        let lost = writer.error_counter();
        let subscriber = tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_writer(writer)
            // Colours are for terminals; a file, which other programs read, gets nothing but text.
            .with_ansi(std::io::stderr().is_terminal())
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
