//! Small faults put into a line of code: what a test that proves something must notice.
//!
//! Text in, text out. A fault is chosen by the caller among those that a line offers; comments and
//! literals are never touched, because the scanner has blanked them in `code`.

use crate::source::Source;

/// One fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mutation {
    /// Line, from 1.
    pub(crate) line: usize,
    /// What it does, for the report.
    pub(crate) what: String,
    /// The line as it would be.
    pub(crate) mutated: String,
}

const SWAPS: [(&str, &str); 12] = [
    (" == ", " != "),
    (" != ", " == "),
    (" < ", " >= "),
    (" > ", " <= "),
    (" <= ", " > "),
    (" >= ", " < "),
    (" && ", " || "),
    (" || ", " && "),
    (" + ", " - "),
    (" - ", " + "),
    ("true", "false"),
    ("false", "true"),
];

/// Every fault that a line offers.
pub(crate) fn of_line(source: &Source, line: usize) -> Vec<Mutation> {
    let range = source.line_range(line);
    let text = &source.text[range.clone()];
    let code = &source.code[range];
    let mut mutations = Vec::new();
    let mut add = |what: String, mutated: String| {
        mutations.push(Mutation { line, what, mutated });
    };
    for (from, to) in SWAPS {
        for (at, _) in code.match_indices(from) {
            let is_whole = from.starts_with(' ') || is_word_at(code, at, from);
            if is_whole {
                let mutated = format!("{}{to}{}", &text[..at], &text[at + from.len()..]);
                add(format!("`{}` becomes `{}`", from.trim(), to.trim()), mutated);
            }
        }
    }
    if let Some((at, end)) = condition(code) {
        let mutated = format!("{}!({}){}", &text[..at], &text[at..end], &text[end..]);
        add("the condition is negated".into(), mutated);
    }
    for (at, length) in numbers(code) {
        let Ok(number) = text[at..at + length].parse::<u64>() else { continue };
        let changed = number.wrapping_add(1);
        let mutated = format!("{}{changed}{}", &text[..at], &text[at + length..]);
        add(format!("{number} becomes {changed}"), mutated);
    }
    if is_droppable(code) {
        let indent = &text[..text.len() - text.trim_start().len()];
        add("the statement is dropped".into(), indent.to_owned());
    }
    mutations
}

fn is_word_at(code: &str, at: usize, word: &str) -> bool {
    crate::source::words(code, word).any(|found| found == at)
}

/// Byte range of the condition of an `if` or `while` that stands in one line.
fn condition(code: &str) -> Option<(usize, usize)> {
    let trimmed = code.trim_start();
    let indent = code.len() - trimmed.len();
    let keyword =
        ["if ", "} else if ", "while "].into_iter().find(|word| trimmed.starts_with(word))?;
    let start = indent + keyword.len();
    let end = code.trim_end().strip_suffix(" {")?.len();
    let inside = code.get(start..end)?;
    let is_pattern = crate::source::words(inside, "let").next().is_some();
    (!is_pattern && !inside.trim().is_empty()).then_some((start, end))
}

/// Whole decimal numbers: not parts of names, of other numbers or of types.
fn numbers(code: &str) -> Vec<(usize, usize)> {
    let bytes = code.as_bytes();
    let mut found = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let length = bytes[at..].iter().take_while(|byte| byte.is_ascii_digit()).count();
        if length == 0 {
            at += 1;
            continue;
        }
        let before = code[..at].chars().next_back();
        let after = code[at + length..].chars().next();
        let is_joined = |c: Option<char>| c.is_some_and(|c| crate::source::is_word(c) || c == '.');
        if !is_joined(before) && !is_joined(after) {
            found.push((at, length));
        }
        at += length;
    }
    found
}

/// A statement of one line that acts: a call, an assignment, a jump.
fn is_droppable(code: &str) -> bool {
    let code = code.trim();
    let is_declaration =
        ["let ", "use ", "pub ", "const ", "static ", "type ", "mod ", "return", "//"]
            .iter()
            .any(|start| code.starts_with(start));
    let opens = code.matches(['(', '[', '{']).count();
    let closes = code.matches([')', ']', '}']).count();
    code.ends_with(';')
        && !is_declaration
        && opens == closes
        && (code.contains('(') || code.contains(" = ") || code.contains("= "))
        && code.starts_with(|c: char| c.is_alphabetic() || c == '_' || c == '*')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mutated(line: &str) -> Vec<String> {
        let source = Source::new("crates/a/b/src/c.rs", line);
        of_line(&source, 1).into_iter().map(|mutation| mutation.mutated).collect()
    }

    #[test]
    fn conditions_comparisons_and_constants_change() {
        assert_eq!(mutated("if a < 3 {"), ["if a >= 3 {", "if !(a < 3) {", "if a < 4 {"]);
        assert_eq!(mutated("a == b && c"), ["a != b && c", "a == b || c"]);
        assert_eq!(mutated("return true;"), ["return false;"]);
    }

    #[test]
    fn statements_are_dropped_whole() {
        assert_eq!(mutated("    self.queue.clear();"), ["    "]);
        assert_eq!(mutated("    self.count += 1;"), ["    self.count += 2;", "    "]);
        assert_eq!(mutated("    let a = b();"), Vec::<String>::new());
        assert_eq!(mutated("    })?;"), Vec::<String>::new());
    }

    #[test]
    fn names_types_literals_patterns_and_comments_stay() {
        assert_eq!(mutated("fn a(b: u16) -> x2 // 3 == 4"), Vec::<String>::new());
        assert_eq!(mutated("let a = \"1 == 2\";"), Vec::<String>::new());
        assert_eq!(mutated("if let Some(a) = b {"), Vec::<String>::new());
        assert_eq!(mutated("untrue"), Vec::<String>::new());
    }
}
