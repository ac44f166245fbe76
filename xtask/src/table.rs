//! Markdown tables whose last columns are derived: read by row, rewritten in place.

/// One row of a table, with its line from 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Row {
    /// Line, from 1.
    pub(crate) line: usize,
    /// The cells, trimmed.
    pub(crate) cells: Vec<String>,
}

/// Stands for "nothing found".
pub(crate) const NOTHING: &str = "—";

/// Every row whose first cell `is_id` accepts.
pub(crate) fn rows(text: &str, is_id: impl Fn(&str) -> bool) -> Vec<Row> {
    let mut rows = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let Some(inside) =
            line.strip_prefix('|').and_then(|rest| rest.trim_end().strip_suffix('|'))
        else {
            continue;
        };
        let cells: Vec<String> = inside.split('|').map(|cell| cell.trim().to_owned()).collect();
        if cells.first().is_some_and(|first| is_id(first)) {
            rows.push(Row { line: index + 1, cells });
        }
    }
    rows
}

/// The text with the given rows replaced.
pub(crate) fn rewrite(text: &str, rows: &[Row]) -> String {
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    for row in rows {
        if let Some(line) = row.line.checked_sub(1).and_then(|index| lines.get_mut(index)) {
            *line = format!("| {} |", row.cells.join(" | "));
        }
    }
    let mut text = lines.join("\n");
    text.push('\n');
    text
}

/// A cell that lists places.
pub(crate) fn places(places: &[String]) -> String {
    if places.is_empty() {
        return NOTHING.to_owned();
    }
    places.iter().map(|place| format!("`{place}`")).collect::<Vec<_>>().join("<br>")
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# A\n\n| id | what | where |\n| --- | --- | --- |\n| A-1 | one | — |\n| A-2 | two | `x` |\n";

    #[test]
    fn rows_are_read_and_written_in_place() {
        let mut rows = rows(TEXT, |id| id.starts_with("A-"));
        assert_eq!(rows.len(), 2);
        assert_eq!((rows[1].line, rows[1].cells[2].as_str()), (6, "`x`"));
        assert_eq!(rewrite(TEXT, &rows), TEXT);
        rows[0].cells[2] = places(&["p::a".into(), "q::b".into()]);
        assert_eq!(rewrite(TEXT, &rows), TEXT.replace("| one | — |", "| one | `p::a`<br>`q::b` |"));
    }

    #[test]
    fn no_place_is_a_dash() {
        assert_eq!(places(&[]), "—");
    }
}
