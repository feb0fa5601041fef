//! Reads the measurements of the failure model's tests, and prints the median of each row as a Markdown
//! table.
//!
//! Usage: `failure-table FILE`, where the file is the one that `SHARDS_MEASURED` named.

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context, Result};
use serde_json::Value;
use shard_tests::median;

/// The measurements of one row.
#[derive(Default)]
struct Row {
    texts: [String; 3],
    notice: Vec<u64>,
    finish: Vec<u64>,
    times: usize,
}

fn main() -> Result<()> {
    let path = std::env::args_os().nth(1).context("usage: failure-table FILE")?;
    let text =
        fs::read_to_string(&path).with_context(|| format!("{} cannot be read", path.to_string_lossy()))?;
    let mut rows: BTreeMap<(u64, String), Row> = BTreeMap::new();
    for line in text.lines() {
        let value: Value = serde_json::from_str(line).with_context(|| format!("not JSON: {line}"))?;
        let text = |field: &str| value.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
        let number = |field: &str| value.get(field).and_then(Value::as_u64);
        let row = rows.entry((number("place").unwrap_or_default(), text("fault"))).or_default();
        row.texts = [text("fault"), text("injected"), text("noticed")];
        row.notice.extend(number("notice_us"));
        row.finish.extend(number("finish_us"));
        row.times += 1;
    }
    println!("| fault | how it was injected | how it was noticed | to notice | to finish |");
    println!("|---|---|---|---:|---:|");
    for row in rows.into_values() {
        let [fault, injected, noticed] = &row.texts;
        let (notice, finish) = (millis(row.notice), millis(row.finish));
        println!("| {fault} | {injected} | {noticed} | {notice} | {finish} |");
    }
    Ok(())
}

/// The median in milliseconds, with about three digits.
fn millis(micros: Vec<u64>) -> String {
    let values: Vec<f64> = micros.into_iter().map(|micros| micros as f64 / 1e3).collect();
    match median(&values) {
        None => "–".to_owned(),
        Some(millis) if millis < 10.0 => format!("{millis:.1} ms"),
        Some(millis) if millis < 1_000.0 => format!("{millis:.0} ms"),
        Some(millis) => format!("{:.1} s", millis / 1e3),
    }
}
