//! The tables for other programs: PnPInversion's CSV, and JSON.

use serde_json::{Map, Value, json};

use super::{Column, Mean, Sample, Score, Summary, text_of};

/// The CSV of PnPInversion's evaluation: `file_id`, then `method|metric` for each column, one
/// row for each edit. What an edit has no value of is left empty.
pub fn csv(method: &str, columns: &[Column], scored: &[(&Sample, &Score)]) -> String {
    let quoted = |text: &str| match text.contains([',', '"', '\r', '\n']) {
        true => format!("\"{}\"", text.replace('"', "\"\"")),
        false => text.to_owned(),
    };
    let head = columns
        .iter()
        .map(|column| quoted(&format!("{method}|{}", column.name())));
    let mut text = row([("file_id".to_owned())].into_iter().chain(head));
    for (sample, score) in scored {
        let value = |column: &Column| score.values.get(column).copied().map(text_of);
        let values = columns
            .iter()
            .map(|column| value(column).unwrap_or_default());
        text += &row([quoted(&sample.key)].into_iter().chain(values));
    }
    text
}

/// Cells on a line, which ends as Python's.
fn row(cells: impl Iterator<Item = String>) -> String {
    cells.collect::<Vec<_>>().join(",") + "\r\n"
}

/// Means with the counts behind them, and the values of each edit; what is not finite is null.
pub fn metrics_json(
    facts: Map<String, Value>,
    summary: &Summary,
    scored: &[(&Sample, &Score)],
) -> Value {
    let mean = |mean: &Mean| {
        json!({ "mean": mean.value(), "count": mean.count, "nan": mean.nan,
            "infinite": mean.infinite })
    };
    let means = |means: &[Mean]| {
        let named = summary.columns.iter().zip(means);
        let named = named.map(|(column, own)| (column.name().to_owned(), mean(own)));
        Value::Object(named.collect())
    };
    let kinds = summary
        .kinds
        .iter()
        .map(|(kind, count, own)| (kind.clone(), json!({ "edits": count, "means": means(own) })));
    let edits = scored.iter().map(|(sample, score)| {
        let values = score.values.iter();
        let values = values.map(|(column, value)| (column.name().to_owned(), json!(value)));
        json!({ "key": sample.key, "kind": sample.kind,
            "values": Value::Object(values.collect()) })
    });
    let mut all = facts;
    all.insert("edits".into(), summary.all.0.into());
    all.insert("means".into(), means(&summary.all.1));
    all.insert("kinds".into(), Value::Object(kinds.collect()));
    all.insert("values".into(), edits.collect());
    Value::Object(all)
}
