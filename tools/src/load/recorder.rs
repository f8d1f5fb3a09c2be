//! The results of a run: latencies and outcomes of the operations that belong to the measured window.
//!
//! In:     one call per finished operation.
//! Out:    three histograms (response, service, lag), counts by outcome, and the last second for the status line.
//! Cost:   three histogram increments per operation.
//! Fails:  never; a latency above the histograms' maximum of one hour counts as one hour.

use super::schedule::NS_PER_S;
use hdrhistogram::Histogram;
use std::ops::Range;

/// Why an operation was not acknowledged.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum ErrorKind {
    /// No answer came in time, or the operation was never sent because the run ended.
    Timeout,
    /// The operation was still redirected from node to node when its time ran out.
    Moved,
    /// The server does not know whether the write happened.
    Unknown,
    /// Refused: the server is at a bound.
    Overloaded,
    /// Refused: the log is at its quota.
    LogFull,
    /// Refused: the log's disk is full.
    DiskFull,
    /// Refused: the key's slot has no leader.
    ClusterDown,
    /// The connection broke while the operation was on it, or none could be made. A write that was sent may have
    /// happened.
    Connection,
    /// Any other error reply.
    Other,
}

impl ErrorKind {
    pub(super) const ALL: [Self; 9] = [
        Self::Timeout,
        Self::Moved,
        Self::Unknown,
        Self::Overloaded,
        Self::LogFull,
        Self::DiskFull,
        Self::ClusterDown,
        Self::Connection,
        Self::Other,
    ];

    /// The name of the kind in reports.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Timeout => "timeout",
            Self::Moved => "moved",
            Self::Unknown => "unknown",
            Self::Overloaded => "overloaded",
            Self::LogFull => "logfull",
            Self::DiskFull => "diskfull",
            Self::ClusterDown => "clusterdown",
            Self::Connection => "connection",
            Self::Other => "other",
        }
    }

    /// The kind of an error reply, by the reply's text. A `MOVED` reply is handled before this function is called.
    pub(super) fn of_reply(text: &[u8]) -> Self {
        let code = text.split(|&byte| byte == b' ').next().unwrap_or_default();
        match code {
            b"UNKNOWN" => Self::Unknown,
            b"OVERLOADED" | b"BUSY" | b"TRYAGAIN" | b"OOM" => Self::Overloaded,
            b"LOGFULL" => Self::LogFull,
            b"DISKFULL" => Self::DiskFull,
            b"CLUSTERDOWN" | b"LOADING" | b"MASTERDOWN" => Self::ClusterDown,
            _ => Self::Other,
        }
    }
}

/// When one operation was meant to start, and when it did.
#[derive(Clone, Copy, Debug)]
pub(super) struct Times {
    pub(super) intended_ns: u64,
    /// When the generator came to the operation: a delay up to here is the generator's own doing.
    pub(super) started_ns: u64,
    /// When the operation was last handed to a connection: later than `started_ns` if it was redirected, or its node
    /// was away.
    pub(super) sent_ns: u64,
}

/// The measured window's results.
pub(super) struct Recorder {
    start_ns: u64,
    end_ns: u64,
    /// From the intended start to the answer.
    pub(super) response: Histogram<u64>,
    /// From the (last) send to the answer.
    pub(super) service: Histogram<u64>,
    /// From the intended start to the actual one: the generator's own delay.
    pub(super) lag: Histogram<u64>,
    /// Operations whose intended start lies in the window: acknowledged + errors.
    pub(super) sent: u64,
    pub(super) acknowledged: u64,
    /// Acknowledgements that arrived inside the window, whenever the operations started.
    pub(super) arrived: u64,
    /// The number of errors of each [`ErrorKind`].
    pub(super) errors: [u64; ErrorKind::ALL.len()],
    /// Requests that were sent again to another node after `MOVED`; these are not errors.
    pub(super) redirected: u64,
    interval: Option<Interval>,
}

impl Recorder {
    /// Records operations meant to start in the window; if `live`, also keeps the figures of the last second.
    pub(super) fn new(window_ns: Range<u64>, live: bool) -> Self {
        Self {
            start_ns: window_ns.start,
            end_ns: window_ns.end,
            response: histogram(),
            service: histogram(),
            lag: histogram(),
            sent: 0,
            acknowledged: 0,
            arrived: 0,
            errors: [0; ErrorKind::ALL.len()],
            redirected: 0,
            interval: live.then(|| Interval { response: histogram(), errors: 0 }),
        }
    }

    /// The window, as it stands.
    pub(super) fn window_ns(&self) -> Range<u64> {
        self.start_ns..self.end_ns
    }

    /// Ends the window early. Operations that were meant to start later no longer count.
    pub(super) fn cut(&mut self, end_ns: u64) {
        self.end_ns = self.end_ns.min(end_ns.max(self.start_ns));
    }

    pub(super) fn acknowledge(&mut self, times: Times, now_ns: u64) {
        let response = now_ns.saturating_sub(times.intended_ns);
        if let Some(interval) = &mut self.interval {
            interval.response.saturating_record(response);
        }
        if (self.start_ns..self.end_ns).contains(&now_ns) {
            self.arrived += 1;
        }
        if self.covers(times.intended_ns) {
            self.sent += 1;
            self.acknowledged += 1;
            self.response.saturating_record(response);
            self.service.saturating_record(now_ns.saturating_sub(times.sent_ns));
            self.lag.saturating_record(times.started_ns.saturating_sub(times.intended_ns));
        }
    }

    pub(super) fn fail(&mut self, intended_ns: u64, kind: ErrorKind) {
        self.fail_many(intended_ns, kind, 1);
    }

    /// Records `count` failures of operations that lie on the same side of the window's bounds as `intended_ns`.
    pub(super) fn fail_many(&mut self, intended_ns: u64, kind: ErrorKind, count: u64) {
        if let Some(interval) = &mut self.interval {
            interval.errors += count;
        }
        if self.covers(intended_ns) {
            self.sent += count;
            self.errors[kind as usize] += count;
        }
    }

    pub(super) fn redirect(&mut self) {
        self.redirected += 1;
    }

    /// One status line for the time since the last status line; then starts a new interval.
    pub(super) fn status(&mut self, elapsed_ns: u64, in_flight: usize) -> Option<String> {
        let interval = self.interval.as_mut()?;
        let rate = interval.response.len() as f64 * NS_PER_S as f64 / elapsed_ns.max(1) as f64;
        let at = |quantile| interval.response.value_at_quantile(quantile) as f64 / 1e6;
        let line = format!(
            "{rate:>9.0}/s  p50 {:.3} ms  p99 {:.3} ms  max {:.3} ms  in flight {in_flight}  errors {}",
            at(0.5),
            at(0.99),
            interval.response.max() as f64 / 1e6,
            interval.errors,
        );
        interval.response.reset();
        interval.errors = 0;
        Some(line)
    }

    fn covers(&self, intended_ns: u64) -> bool {
        (self.start_ns..self.end_ns).contains(&intended_ns)
    }
}

struct Interval {
    response: Histogram<u64>,
    errors: u64,
}

/// A histogram from 1 µs to 1 h, with three significant digits.
fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1_000, 3_600 * NS_PER_S, 3).expect("bounds the library takes")
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    #[test]
    fn an_operation_counts_by_its_intended_start() {
        let mut recorder = Recorder::new(10 * MS..20 * MS, false);
        let at = |intended_ns| Times {
            intended_ns,
            started_ns: intended_ns + MS,
            sent_ns: intended_ns + 2 * MS,
        };
        recorder.acknowledge(at(9 * MS), 12 * MS); // warm-up, answered in the window
        recorder.acknowledge(at(10 * MS), 14 * MS);
        recorder.acknowledge(at(19 * MS), 25 * MS); // in the window, answered while draining
        recorder.acknowledge(at(20 * MS), 25 * MS); // after it
        assert_eq!((recorder.sent, recorder.acknowledged, recorder.arrived), (2, 2, 2));
        assert_eq!(recorder.response.len(), 2);
        let max = |histogram: &Histogram<u64>| histogram.max() / MS;
        assert_eq!(
            (max(&recorder.response), max(&recorder.service), max(&recorder.lag)),
            (6, 4, 1)
        );
    }

    #[test]
    fn failures_are_counted_by_kind_and_warm_up_ones_are_not() {
        let mut recorder = Recorder::new(10..20, true);
        recorder.fail(9, ErrorKind::Timeout);
        recorder.fail(10, ErrorKind::Overloaded);
        recorder.fail_many(19, ErrorKind::Timeout, 3);
        assert_eq!(
            (recorder.sent, recorder.acknowledged, recorder.errors.iter().sum::<u64>()),
            (4, 0, 4)
        );
        assert_eq!(recorder.errors[ErrorKind::Timeout as usize], 3);
        assert!(recorder.status(NS_PER_S, 0).unwrap().ends_with("errors 5"));
        assert!(recorder.status(NS_PER_S, 0).unwrap().ends_with("errors 0"));
    }

    #[test]
    fn a_stall_longer_than_an_hour_is_held_not_lost() {
        let mut recorder = Recorder::new(0..1, false);
        recorder.acknowledge(Times { intended_ns: 0, started_ns: 0, sent_ns: 0 }, 7_200 * NS_PER_S);
        assert_eq!(recorder.response.len(), 1);
        assert!(recorder.response.max() >= 3_600 * NS_PER_S);
    }

    #[test]
    fn error_replies_are_known_by_their_first_word() {
        for (text, kind) in [
            (&b"UNKNOWN outcome"[..], ErrorKind::Unknown),
            (b"OVERLOADED", ErrorKind::Overloaded),
            (b"TRYAGAIN overloaded, retry after 5ms", ErrorKind::Overloaded),
            (b"LOGFULL the log is at its quota", ErrorKind::LogFull),
            (b"DISKFULL the log's disk is full", ErrorKind::DiskFull),
            (b"CLUSTERDOWN Hash slot not served", ErrorKind::ClusterDown),
            (b"ERR no such thing", ErrorKind::Other),
            (b"", ErrorKind::Other),
        ] {
            assert_eq!(ErrorKind::of_reply(text), kind, "{}", text.escape_ascii());
        }
        for (at, kind) in ErrorKind::ALL.into_iter().enumerate() {
            assert_eq!(kind as usize, at, "{} is counted at its own place", kind.name());
        }
    }
}
