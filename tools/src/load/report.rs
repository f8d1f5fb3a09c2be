//! A run's results: a table for people, JSON for programs, `.hgrm` for HdrHistogram's plotter.
//!
//! In:     a filled [`Recorder`] and what the servers said of themselves in `INFO`.
//! Out:    text and files. Latencies are milliseconds in text and `.hgrm`, microseconds in JSON.
//! Cost:   none on the path of an operation.
//! Fails:  only where a file cannot be written.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io;

use comfy_table::presets::UTF8_HORIZONTAL_ONLY;
use comfy_table::{Cell, CellAlignment, Table};
use hdrhistogram::Histogram;
use serde::Serialize;

use super::recorder::{ErrorKind, Recorder};
use super::run::Pace;
use super::schedule::NS_PER_S;
use super::target::{NodeInfo, Stage};

/// The generator's own delay above this share of the reported p99.9 makes a run a measure of the generator.
pub(super) const LAG_SHARE_MAX: f64 = 0.5;

/// If a larger share of the writes than this had no answer, no high quantile of the answered writes says anything.
pub(super) const UNANSWERED_SHARE_MAX: f64 = 0.01;

/// One run, as the JSON file describes it. Latencies are in microseconds.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    /// Acknowledgements that arrived in the window, per second.
    throughput_per_s: f64,
    /// From the intended start to the answer.
    latency_us: Latency,
    /// From the send to the answer.
    service_us: Latency,
    /// From the intended start to the actual start.
    lag_us: Latency,
    /// Operations meant to start in the window: acknowledged + errors.
    sent: u64,
    acknowledged: u64,
    errors: BTreeMap<&'static str, u64>,
    /// Requests sent again after `MOVED`.
    redirected: u64,
    duration_s: f64,
    warmup_s: f64,
    nodes: usize,
    groups: Option<u64>,
    keys: u32,
    value_bytes: usize,
    rate_per_s: Option<u64>,
    concurrency: Option<usize>,
    seed: u64,
    disk_driver: String,
    direct_io: String,
    /// The version of the servers, or `unknown`.
    server_version: String,
    /// The version of this program.
    version: &'static str,
    /// False if the generator's lag is too large a part of the result, if too many writes had no answer, or if the run
    /// was cut short.
    valid: bool,
    /// The share, among all writes, of those without an answer and those whose answer is that the outcome is unknown. A
    /// quantile in a tail of this share or less is not known.
    unanswered_share: f64,
    interrupted: bool,
    generator_cpu_us_per_op: Option<f64>,
    /// Mean over all nodes, by stage, in path order.
    stages: Vec<StageReport>,
}

/// Quantiles of one histogram, in microseconds.
#[derive(Debug, Serialize)]
struct Latency {
    p50: f64,
    p90: f64,
    p99: f64,
    p99_9: f64,
    max: f64,
    mean: f64,
}

/// One stage of a proposal on all nodes: means weighted by count, quantiles of the worst node.
#[derive(Debug, PartialEq, Serialize)]
struct StageReport {
    stage: String,
    count: u64,
    mean_us: f64,
    p50_us_worst: f64,
    p99_us_worst: f64,
}

/// The settings of the run, and the facts that the recorder does not know.
pub(super) struct Facts<'a> {
    pub(super) pace: Pace,
    pub(super) warmup_s: f64,
    pub(super) keys: u32,
    pub(super) value_bytes: usize,
    pub(super) seed: u64,
    pub(super) nodes: usize,
    pub(super) groups: Option<u64>,
    pub(super) infos: &'a [NodeInfo],
    pub(super) cpu_used_ns: Option<u64>,
    pub(super) interrupted: bool,
}

impl Report {
    pub(super) fn new(recorder: &Recorder, facts: &Facts<'_>) -> Self {
        let window_ns = recorder.window_ns();
        let duration_s = (window_ns.end - window_ns.start) as f64 / NS_PER_S as f64;
        let field = |name: &str| common(facts.infos.iter().map(|info| info.field(name)));
        let lag_share = recorder.lag.value_at_quantile(0.999) as f64
            / recorder.response.value_at_quantile(0.999).max(1) as f64;
        let (rate_per_s, concurrency) = match facts.pace {
            Pace::Open { rate_per_s } => (Some(rate_per_s), None),
            Pace::Closed { concurrency } => (None, Some(concurrency)),
        };
        // An answer that the outcome is unknown tells as little as no answer.
        let unanswered =
            [ErrorKind::Timeout, ErrorKind::Connection, ErrorKind::Moved, ErrorKind::Unknown];
        let unanswered =
            (unanswered.iter()).map(|kind| recorder.errors[*kind as usize]).sum::<u64>();
        let unanswered_share = unanswered as f64 / recorder.sent.max(1) as f64;
        let valid = lag_share <= LAG_SHARE_MAX
            && unanswered_share <= UNANSWERED_SHARE_MAX
            && !facts.interrupted;
        Self {
            throughput_per_s: if duration_s > 0.0 {
                recorder.arrived as f64 / duration_s
            } else {
                0.0
            },
            latency_us: Latency::of(&recorder.response),
            service_us: Latency::of(&recorder.service),
            lag_us: Latency::of(&recorder.lag),
            sent: recorder.sent,
            acknowledged: recorder.acknowledged,
            errors: ErrorKind::ALL
                .into_iter()
                .map(|kind| (kind.name(), recorder.errors[kind as usize]))
                .collect(),
            redirected: recorder.redirected,
            duration_s,
            warmup_s: facts.warmup_s,
            nodes: facts.nodes,
            groups: facts.groups.or_else(|| field("groups").parse().ok()),
            keys: facts.keys,
            value_bytes: facts.value_bytes,
            rate_per_s,
            concurrency,
            seed: facts.seed,
            disk_driver: field("disk_driver"),
            direct_io: field("direct_io"),
            server_version: field("logdrive_version"),
            version: env!("CARGO_PKG_VERSION"),
            valid,
            unanswered_share,
            interrupted: facts.interrupted,
            generator_cpu_us_per_op: facts
                .cpu_used_ns
                .filter(|_| recorder.arrived > 0)
                .map(|used| used as f64 / 1e3 / recorder.arrived as f64),
            stages: merge_stages(facts.infos),
        }
    }

    /// Why the figures are not a measure of the servers, if they are not.
    pub(super) fn warning(&self) -> Option<String> {
        if self.interrupted {
            return Some("INVALID: the run was cut short".to_owned());
        }
        if self.unanswered_share > UNANSWERED_SHARE_MAX {
            return Some(format!(
                "INVALID: {:.1} % of the writes had no answer or an unknown outcome, and the latencies are those of the others",
                self.unanswered_share * 100.0
            ));
        }
        (!self.valid).then(|| {
            format!(
                "INVALID as a measure of the servers: the generator itself was late (p99.9 {:.3} ms of {:.3} ms). \
                 Latencies count from the intended start and so include it; give it a core, or lower the rate",
                self.lag_us.p99_9 / 1e3,
                self.latency_us.p99_9 / 1e3,
            )
        })
    }

    /// The table.
    pub(super) fn text(&self) -> String {
        let pace = match (self.rate_per_s, self.concurrency) {
            (Some(rate), _) => format!("open loop at {} writes/s", grouped(rate)),
            (_, Some(count)) => format!("closed loop, {} outstanding", grouped(count as u64)),
            (None, None) => unreachable!("a pace is one or the other"),
        };
        let groups = self.groups.map_or("unknown".to_owned(), grouped);
        let mut text = format!(
            "{} nodes, {groups} groups, {} B values, {pace}, {:.1} s; disk {}, direct I/O {}\n\n",
            self.nodes, self.value_bytes, self.duration_s, self.disk_driver, self.direct_io
        );
        let rate = grouped_f64(self.throughput_per_s);
        let _ = writeln!(text, "throughput    {rate} writes/s");
        let _ = writeln!(
            text,
            "operations    {} sent, {} acknowledged, {} redirected",
            grouped(self.sent),
            grouped(self.acknowledged),
            grouped(self.redirected)
        );
        let errors: Vec<String> = self
            .errors
            .iter()
            .filter(|(_, count)| **count > 0)
            .map(|(kind, count)| format!("{} {kind}", grouped(*count)))
            .collect();
        let _ = writeln!(
            text,
            "errors        {}",
            if errors.is_empty() { "none".into() } else { errors.join(", ") }
        );
        if let Some(cost) = self.generator_cpu_us_per_op {
            let _ = writeln!(text, "generator     {cost:.2} µs of CPU per write");
        }
        let mut table = table(&["latency, ms", "p50", "p90", "p99", "p99.9", "max", "mean"]);
        let mut row = |name: &str, latency: &Latency| {
            let values =
                [latency.p50, latency.p90, latency.p99, latency.p99_9, latency.max, latency.mean];
            table.add_row(cells(name, values.iter().map(|value| format!("{:.3}", value / 1e3))));
        };
        row("from intended start", &self.latency_us);
        if self.rate_per_s.is_some() {
            row("from send", &self.service_us);
            row("generator's lag", &self.lag_us);
        }
        let _ = write!(text, "\n{table}\n");
        text
    }

    /// A proposal's time by stage, per node and over all nodes; empty if the servers do not report stages.
    pub(super) fn waterfall(&self, infos: &[NodeInfo]) -> String {
        if self.stages.is_empty() {
            return String::new();
        }
        let mut header = vec!["stage, µs".to_owned(), "mean".to_owned(), "count".to_owned()];
        for node in 1..=infos.len() {
            header.push(format!("node {node} p50"));
            header.push("p99".to_owned());
        }
        let mut table = table(&header.iter().map(String::as_str).collect::<Vec<_>>());
        for merged in &self.stages {
            let mut values = vec![format!("{:.1}", merged.mean_us), grouped(merged.count)];
            for info in infos {
                let stage = info.stages.iter().find(|stage| stage.name == merged.stage);
                let show = |value: fn(&Stage) -> f64| {
                    stage.map_or("-".to_owned(), |stage| format!("{:.0}", value(stage)))
                };
                values.push(show(|stage| stage.p50));
                values.push(show(|stage| stage.p99));
            }
            table.add_row(cells(&merged.stage, values.into_iter()));
        }
        format!("{table}\n")
    }

    /// The JSON file's text.
    pub(super) fn json(&self) -> String {
        let mut json = serde_json::to_string_pretty(self).expect("numbers and strings");
        json.push('\n');
        json
    }
}

impl Latency {
    fn of(histogram: &Histogram<u64>) -> Self {
        // A quantile is the upper end of its bucket, and a mean is made of the middles of buckets: both may lie above
        // the largest value recorded.
        let at = |quantile| histogram.value_at_quantile(quantile).min(histogram.max()) as f64 / 1e3;
        Self {
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p99_9: at(0.999),
            max: histogram.max() as f64 / 1e3,
            mean: histogram.mean().min(histogram.max() as f64) / 1e3,
        }
    }
}

/// Writes a histogram of nanoseconds the way Java's `outputPercentileDistribution` does, in milliseconds.
pub(super) fn write_hgrm(histogram: &Histogram<u64>, out: &mut dyn io::Write) -> io::Result<()> {
    const TICKS_PER_HALF_DISTANCE: u32 = 5;
    let ms = |value: f64| value / 1e6;
    writeln!(
        out,
        "{:>12} {:>14} {:>10} {:>14}\n",
        "Value", "Percentile", "TotalCount", "1/(1-Percentile)"
    )?;
    let mut count = 0;
    for step in histogram.iter_quantiles(TICKS_PER_HALF_DISTANCE) {
        count += step.count_since_last_iteration();
        let (value, quantile) = (ms(step.value_iterated_to() as f64), step.quantile_iterated_to());
        write!(out, "{value:12.3} {quantile:2.12} {count:10}")?;
        if quantile < 1.0 {
            write!(out, " {:14.2}", 1.0 / (1.0 - quantile))?;
        }
        writeln!(out)?;
    }
    writeln!(
        out,
        "#[Mean    = {:12.3}, StdDeviation   = {:12.3}]",
        ms(histogram.mean()),
        ms(histogram.stdev())
    )?;
    writeln!(
        out,
        "#[Max     = {:12.3}, Total count    = {:12}]",
        ms(histogram.max() as f64),
        histogram.len()
    )?;
    // Buckets are counted as Java counts them: the first bucket holds two halves, and each later bucket adds a half.
    let sub_buckets = 2_048;
    let buckets = histogram.distinct_values() / (sub_buckets / 2) - 1;
    writeln!(out, "#[Buckets = {buckets:12}, SubBuckets     = {sub_buckets:12}]")
}

/// The value that all nodes share, `unknown` if there are no nodes, or the value of each node.
fn common<'a>(values: impl Iterator<Item = &'a str>) -> String {
    let values: Vec<&str> = values.collect();
    match values.split_first() {
        None => "unknown".to_owned(),
        Some((first, rest)) if rest.iter().all(|value| value == first) => (*first).to_owned(),
        Some(_) => values.join("/"),
    }
}

fn merge_stages(infos: &[NodeInfo]) -> Vec<StageReport> {
    let mut merged: Vec<StageReport> = Vec::new();
    for stage in infos.iter().flat_map(|info| &info.stages) {
        let place =
            merged.iter().position(|other| other.stage == stage.name).unwrap_or_else(|| {
                merged.push(StageReport {
                    stage: stage.name.clone(),
                    count: 0,
                    mean_us: 0.0,
                    p50_us_worst: 0.0,
                    p99_us_worst: 0.0,
                });
                merged.len() - 1
            });
        let total = &mut merged[place];
        let count = total.count + stage.count;
        if count > 0 {
            let sum = total.mean_us * total.count as f64 + stage.mean * stage.count as f64;
            total.mean_us = sum / count as f64;
        }
        total.count = count;
        total.p50_us_worst = total.p50_us_worst.max(stage.p50);
        total.p99_us_worst = total.p99_us_worst.max(stage.p99);
    }
    merged
}

fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_HORIZONTAL_ONLY);
    table.set_header(cells(header[0], header[1..].iter().map(|name| (*name).to_owned())));
    table
}

fn cells(name: &str, values: impl Iterator<Item = String>) -> Vec<Cell> {
    let values = values.map(|value| Cell::new(value).set_alignment(CellAlignment::Right));
    std::iter::once(Cell::new(name)).chain(values).collect()
}

/// `1234567` as `1,234,567`.
fn grouped(value: u64) -> String {
    group_digits(&value.to_string())
}

/// The value rounded, and grouped as [`grouped`] does.
fn grouped_f64(value: f64) -> String {
    group_digits(&format!("{value:.0}"))
}

fn group_digits(digits: &str) -> String {
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::recorder::Times;
    use super::*;

    const MS: u64 = 1_000_000;

    fn recorder() -> Recorder {
        let mut recorder = Recorder::new(0..NS_PER_S, false);
        for at in 1..=1_000 {
            let intended_ns = at * 10_000;
            recorder.acknowledge(
                Times { intended_ns, started_ns: intended_ns, sent_ns: intended_ns },
                intended_ns + at * 1_000,
            );
        }
        recorder.fail(5, ErrorKind::Overloaded);
        recorder
    }

    fn facts(infos: &[NodeInfo]) -> Facts<'_> {
        Facts {
            pace: Pace::Open { rate_per_s: 1_000 },
            warmup_s: 0.5,
            keys: 7,
            value_bytes: 128,
            seed: 1,
            nodes: 3,
            groups: None,
            infos,
            cpu_used_ns: Some(2 * MS),
            interrupted: false,
        }
    }

    fn info(driver: &str, mean: f64, count: u64) -> NodeInfo {
        let mut info = NodeInfo::default();
        info.fields.insert("disk_driver".into(), driver.into());
        info.fields.insert("groups".into(), "48".into());
        info.stages.push(Stage { name: "write".into(), p50: mean, p99: mean * 2.0, mean, count });
        info
    }

    #[test]
    fn the_json_holds_what_was_promised() {
        let infos = [info("io_uring", 10.0, 1), info("io_uring", 40.0, 2)];
        let report = Report::new(&recorder(), &facts(&infos));
        let json: serde_json::Value = serde_json::from_str(&report.json()).unwrap();
        for field in [
            "throughput_per_s",
            "latency_us",
            "sent",
            "acknowledged",
            "errors",
            "duration_s",
            "nodes",
            "groups",
            "value_bytes",
            "rate_per_s",
            "concurrency",
            "disk_driver",
            "direct_io",
            "version",
        ] {
            assert!(json.get(field).is_some(), "{field} is missing");
        }
        for (field, low, high) in [
            ("p50", 495.0, 505.0),
            ("p90", 895.0, 905.0),
            ("p99", 985.0, 995.0),
            ("p99_9", 995.0, 1_001.0),
            ("max", 999.0, 1_001.0),
            ("mean", 495.0, 505.0),
        ] {
            let value = json["latency_us"][field].as_f64().unwrap();
            assert!((low..high).contains(&value), "{field} is {value} µs");
        }
        assert_eq!(
            (json["sent"].as_u64(), json["acknowledged"].as_u64()),
            (Some(1_001), Some(1_000))
        );
        assert_eq!(
            (json["errors"]["overloaded"].as_u64(), json["errors"]["timeout"].as_u64()),
            (Some(1), Some(0))
        );
        assert_eq!(
            (json["disk_driver"].as_str(), json["direct_io"].as_str()),
            (Some("io_uring"), Some("unknown"))
        );
        assert_eq!(
            (json["groups"].as_u64(), json["generator_cpu_us_per_op"].as_f64()),
            (Some(48), Some(2.0))
        );
        assert_eq!(
            (json["stages"][0]["mean_us"].as_f64(), json["stages"][0]["count"].as_u64()),
            (Some(30.0), Some(3))
        );
    }

    #[test]
    fn nothing_is_past_the_maximum() {
        let mut recorder = Recorder::new(0..NS_PER_S, false);
        recorder.acknowledge(Times { intended_ns: 0, started_ns: 0, sent_ns: 0 }, 3 * MS);
        let lag = Latency::of(&recorder.lag);
        assert_eq!([lag.p50, lag.p99_9, lag.max, lag.mean], [0.0; 4]);
    }

    #[test]
    fn writes_without_an_answer_mark_the_result() {
        for (unanswered, valid) in [(10, true), (12, false), (1_000, false)] {
            for kind in
                [ErrorKind::Timeout, ErrorKind::Connection, ErrorKind::Moved, ErrorKind::Unknown]
            {
                let mut recorder = recorder();
                recorder.fail_many(5, kind, unanswered);
                let report = Report::new(&recorder, &facts(&[]));
                let told = (report.valid, report.warning().is_none());
                assert_eq!(told, (valid, valid), "{unanswered} {kind:?}");
            }
        }
        let mut recorder = recorder();
        recorder.fail_many(5, ErrorKind::Timeout, 1_001);
        let warning = Report::new(&recorder, &facts(&[])).warning().unwrap();
        assert!(warning.starts_with("INVALID: 50.0 % of the writes had no answer"), "{warning}");
    }

    /// The operation is 1 ms late to start, is sent 2 ms later, and is answered 4 ms after that: every latency differs
    /// from the others.
    #[test]
    fn each_latency_counts_from_its_own_start() {
        let mut recorder = Recorder::new(0..NS_PER_S, false);
        for at in 0..100 {
            let times = Times { intended_ns: at, started_ns: at + MS, sent_ns: at + 3 * MS };
            recorder.acknowledge(times, at + 7 * MS);
        }
        let report = Report::new(&recorder, &facts(&[]));
        let json: serde_json::Value = serde_json::from_str(&report.json()).unwrap();
        for (latency, ms) in [("latency_us", 7.0), ("service_us", 4.0), ("lag_us", 1.0)] {
            for quantile in ["p50", "p90", "p99", "p99_9", "max", "mean"] {
                let found = json[latency][quantile].as_f64().unwrap() / 1e3;
                assert!((found - ms).abs() < 0.01, "{latency} {quantile} is {found} ms, not {ms}");
            }
        }
        let text = report.text();
        for (name, ms) in
            [("from intended start", "7.0"), ("from send", "4.0"), ("generator's lag", "1.0")]
        {
            let line = text.lines().find(|line| line.contains(name)).unwrap();
            // A mean is made of the middles of buckets, and may be a little lower.
            assert!(line.matches(ms).count() >= 5, "{line}");
        }
    }

    #[test]
    fn nodes_that_differ_are_all_shown() {
        assert_eq!(common(["a", "a"].into_iter()), "a");
        assert_eq!(common(["a", "b"].into_iter()), "a/b");
        assert_eq!(common([].into_iter()), "unknown");
    }

    #[test]
    fn a_late_generator_invalidates_its_run() {
        let mut recorder = Recorder::new(0..NS_PER_S, false);
        recorder
            .acknowledge(Times { intended_ns: 0, started_ns: 2 * MS, sent_ns: 2 * MS }, 10 * MS);
        assert!(Report::new(&recorder, &facts(&[])).warning().is_none());
        for at in 1..10 {
            recorder.acknowledge(
                Times { intended_ns: at, started_ns: 9 * MS, sent_ns: 9 * MS },
                10 * MS,
            );
        }
        let warning = Report::new(&recorder, &facts(&[])).warning().unwrap();
        assert!(warning.starts_with("INVALID") && warning.contains("9.0"), "{warning}");
    }

    #[test]
    fn the_text_names_throughput_quantiles_errors_and_stages() {
        let infos = [info("io_uring", 10.0, 1), info("pwrite", 40.0, 2)];
        let report = Report::new(&recorder(), &facts(&infos));
        let text = report.text();
        for part in
            ["1,000 writes/s", "p99.9", "1 overloaded", "48 groups", "io_uring/pwrite", "128 B"]
        {
            assert!(text.contains(part), "{part} in\n{text}");
        }
        let waterfall = report.waterfall(&infos);
        assert!(
            waterfall.contains("write")
                && waterfall.contains("30.0")
                && waterfall.contains("node 2 p50")
        );
        assert!(Report::new(&recorder(), &facts(&[])).waterfall(&[]).is_empty());
    }

    #[test]
    fn hgrm_is_the_format_of_the_java_plotter() {
        let mut out = Vec::new();
        write_hgrm(&recorder().response, &mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "       Value     Percentile TotalCount 1/(1-Percentile)");
        assert_eq!(lines[1], "");
        assert_eq!(lines[2], "       0.001 0.000000000000          1           1.00");
        let body: Vec<&&str> = lines[2..].iter().filter(|line| !line.starts_with('#')).collect();
        let last = body.last().unwrap();
        assert_eq!(last.split_whitespace().collect::<Vec<_>>()[1..], ["1.000000000000", "1000"]);
        let footer = &lines[lines.len() - 3..];
        assert!(footer[0].starts_with("#[Mean    =        0.5"), "{}", footer[0]);
        assert!(footer[1].ends_with("Total count    =         1000]"), "{}", footer[1]);
        assert!(footer[2].ends_with("SubBuckets     =         2048]"), "{}", footer[2]);
    }

    #[test]
    fn thousands_are_grouped() {
        assert_eq!([0, 999, 1_000, 1_234_567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
    }
}
