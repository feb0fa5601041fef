//! The metrics of a process: a table of what it measures, and the text in which Prometheus reads it.
//!
//! Counters and histograms are kept from the start of the process by the `metrics` facade. Gauges are set anew for
//! every scrape, so that a shard that has gone leaves none behind.

use std::convert::Infallible;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use metrics::{Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use tasks::supervise::{SupervisorHandle, TaskState};
use tokio_util::sync::CancellationToken;

use crate::identity::Expiry;

/// The buckets of times, in seconds: from a tenth of a millisecond to half a minute.
const TIMES: [f64; 17] =
    [0.0001, 0.000_3, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0];

/// How often the process sorts new samples of histograms into their buckets. A scrape does the same; without scrapes
/// the samples would pile up.
const UPKEEP_EVERY: Duration = Duration::from_secs(5);

/// How a metric changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It only grows while the process runs.
    Counter,
    /// It goes up and down.
    Gauge,
    /// Samples in buckets, with their number and sum.
    Histogram,
}

/// One metric, as the documentation and `# HELP` describe it.
#[derive(Debug, Clone, Copy)]
pub struct Metric {
    /// The name, with its unit, by the conventions of Prometheus.
    pub name: &'static str,
    /// How it changes.
    pub kind: Kind,
    /// What it measures.
    pub help: &'static str,
}

/// A row of a table of metrics.
#[must_use]
pub const fn metric(kind: Kind, name: &'static str, help: &'static str) -> Metric {
    Metric { name, kind, help }
}

/// What every process measures. Those named `process_…` are of the crate `metrics-process`.
pub const PROCESS: [Metric; 4] = [
    metric(Kind::Gauge, "shardexec_build_info", "Always 1; its labels name the program and its version"),
    metric(Kind::Gauge, "shardexec_ready", "Whether the process can do its work: what /readyz says"),
    metric(Kind::Gauge, "shardexec_tasks", "Tasks and threads of the process by kind and state"),
    metric(Kind::Counter, "shardexec_jobs_failed_total", "Jobs of the process that have failed"),
];

/// What a process with TLS measures besides.
pub const WITH_TLS: [Metric; 2] = [
    metric(
        Kind::Gauge,
        "shardexec_certificate_expiry_seconds",
        "When the certificate of the process expires, in seconds since 1970",
    ),
    metric(
        Kind::Gauge,
        "shardexec_authority_expiry_seconds",
        "When the first of the trusted authorities expires, in seconds since 1970",
    ),
];

/// Seconds since 1970.
fn unix_seconds(at: SystemTime) -> f64 {
    at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

/// The metrics cannot be kept.
#[derive(Debug, thiserror::Error)]
pub enum MetricsError {
    /// The buckets are wrong.
    #[error("the metrics cannot be built: {0}")]
    Build(#[from] BuildError),
    /// The process keeps metrics already.
    #[error("the process keeps its metrics already, for another administration address")]
    Twice,
}

/// The metrics that a process keeps.
#[derive(Debug, Clone)]
pub struct Metrics {
    kept: PrometheusHandle,
    program: &'static str,
    table: &'static [Metric],
    supervisor: SupervisorHandle,
}

impl Metrics {
    /// Begins to keep the metrics of the process.
    ///
    /// # Errors
    /// [`MetricsError`] if they are kept already.
    pub fn install(
        program: &'static str,
        table: &'static [Metric],
        supervisor: &SupervisorHandle,
    ) -> Result<Self, MetricsError> {
        let recorder = builder()?.build_recorder();
        let kept = recorder.handle();
        metrics::set_global_recorder(recorder).map_err(|_| MetricsError::Twice)?;
        describe(table.iter().filter(|metric| metric.kind != Kind::Gauge));
        let (upkeep, stop) = (kept.clone(), supervisor.shutdown_token());
        supervisor.spawn_critical("metrics", keep_up(upkeep, stop));
        Ok(Self { kept, program, table, supervisor: supervisor.clone() })
    }

    /// All metrics in Prometheus' text format. `measure` sets the gauges of the moment.
    ///
    /// # Errors
    /// [`MetricsError`] if the recorder of the gauges cannot be built.
    pub(crate) fn text(
        &self,
        ready: bool,
        expiry: Option<Expiry>,
        measure: impl FnOnce(),
    ) -> Result<String, MetricsError> {
        let recorder = builder()?.build_recorder();
        let now = recorder.handle();
        metrics::with_local_recorder(&recorder, || {
            describe(
                self.table
                    .iter()
                    .chain(&PROCESS)
                    .chain(&WITH_TLS)
                    .filter(|metric| metric.kind == Kind::Gauge),
            );
            self.measure_process(ready);
            if let Some(Expiry { certificate, authority }) = expiry {
                gauge!("shardexec_certificate_expiry_seconds").set(unix_seconds(certificate));
                gauge!("shardexec_authority_expiry_seconds").set(unix_seconds(authority));
            }
            measure();
        });
        Ok(format!("{}{}", self.kept.render(), now.render()))
    }

    fn measure_process(&self, ready: bool) {
        #[cfg(target_os = "linux")]
        {
            let process = metrics_process::Collector::default();
            process.describe();
            process.collect();
        }
        gauge!("shardexec_build_info", "program" => self.program, "version" => env!("CARGO_PKG_VERSION"))
            .set(1.0);
        gauge!("shardexec_ready").set(if ready { 1.0 } else { 0.0 });
        for state in [TaskState::Running, TaskState::Ended, TaskState::Failed] {
            for kind in [tasks::supervise::TaskKind::Task, tasks::supervise::TaskKind::Thread] {
                let all = self.supervisor.status();
                let count = all.iter().filter(|task| task.state == state && task.kind == kind).count();
                let gauge = gauge!("shardexec_tasks", "kind" => kind.as_str(), "state" => state.as_str());
                gauge.set(count as f64);
            }
        }
        let failed = PROCESS.iter().find(|metric| metric.kind == Kind::Counter);
        describe(failed.into_iter());
        counter!("shardexec_jobs_failed_total").absolute(self.supervisor.failed_jobs());
    }
}

fn builder() -> Result<PrometheusBuilder, BuildError> {
    PrometheusBuilder::new().set_buckets_for_metric(Matcher::Suffix("_seconds".into()), &TIMES)
}

/// Gives the recorder the kind and the help of each metric.
fn describe<'a>(metrics: impl Iterator<Item = &'a Metric>) {
    for Metric { name, kind, help } in metrics {
        let unit = if name.ends_with("_seconds") { Unit::Seconds } else { Unit::Count };
        match kind {
            Kind::Counter => describe_counter!(*name, *help),
            Kind::Gauge => describe_gauge!(*name, *help),
            Kind::Histogram => describe_histogram!(*name, unit, *help),
        }
    }
}

/// Puts samples into their buckets until `stop`; without it they would be kept one by one.
async fn keep_up(kept: PrometheusHandle, stop: CancellationToken) -> Result<(), Infallible> {
    let mut interval = tokio::time::interval(UPKEEP_EVERY);
    loop {
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            _ = interval.tick() => kept.run_upkeep(),
        }
    }
}

/// A table of metrics as Markdown, for the documentation.
#[must_use]
pub fn markdown(table: &[Metric]) -> String {
    let rows = table.iter().map(|Metric { name, kind, help }| {
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        format!("| `{name}` | {kind} | {help} |\n")
    });
    format!("| metric | kind | what |\n|---|---|---|\n{}", rows.collect::<String>())
}
