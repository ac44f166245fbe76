//! A Rust file as text: what is code, what is comment, where functions and tests lie.
//!
//! A small scanner, not a parser: it blanks comments and literals (keeping every byte's place),
//! then finds functions by matching braces. It does not expand macros; a test that a macro writes
//! is not seen. Invariant: `code` and `comments` have the length and the line breaks of `text`.

use std::ops::Range;

/// One scanned file.
#[derive(Debug)]
pub(crate) struct Source {
    /// Path from the root, with forward slashes.
    pub(crate) path: String,
    /// The file as it is.
    pub(crate) text: String,
    /// The file with comments and the insides of literals blanked.
    pub(crate) code: String,
    /// The file with everything but comments blanked.
    pub(crate) comments: String,
    /// Every function with a body, in order.
    pub(crate) functions: Vec<Function>,
    test_regions: Vec<Range<usize>>,
    line_starts: Vec<usize>,
}

/// One function with a body.
#[derive(Debug)]
pub(crate) struct Function {
    /// Its name.
    pub(crate) name: String,
    /// Line of the `fn`, from 1.
    pub(crate) line: usize,
    /// Lines from the `fn` to the closing brace.
    pub(crate) line_count: usize,
    /// Byte range from the `fn` to the closing brace.
    pub(crate) span: Range<usize>,
    /// Carries a test attribute.
    pub(crate) is_test: bool,
    /// First line of its documentation.
    pub(crate) first_doc: Option<String>,
}

impl Source {
    /// Scans `text`.
    pub(crate) fn new(path: &str, text: &str) -> Source {
        let (code, comments) = split(text);
        let line_starts = std::iter::once(0)
            .chain(
                text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n').map(|(at, _)| at + 1),
            )
            .collect();
        let mut source = Source {
            path: path.to_owned(),
            text: text.to_owned(),
            code,
            comments,
            functions: Vec::new(),
            test_regions: Vec::new(),
            line_starts,
        };
        source.test_regions = test_regions(&source.code, path);
        source.functions = source.find_functions();
        source
    }

    /// Declares the whole file a test.
    pub(crate) fn make_test(&mut self) {
        self.test_regions = std::iter::once(0..self.text.len()).collect();
    }

    /// Line of a byte, from 1.
    pub(crate) fn line_of(&self, offset: usize) -> usize {
        self.line_starts.partition_point(|start| *start <= offset)
    }

    /// Byte range of a line (from 1), without its line break.
    pub(crate) fn line_range(&self, line: usize) -> Range<usize> {
        let Some(start) = line.checked_sub(1).and_then(|index| self.line_starts.get(index)) else {
            return 0..0;
        };
        let end = self.line_starts.get(line).map_or(self.text.len(), |next| next - 1);
        *start..end.max(*start)
    }

    /// Number of lines.
    pub(crate) fn line_count(&self) -> usize {
        self.text.lines().count()
    }

    /// Number of lines that belong to no test.
    pub(crate) fn shipped_line_count(&self) -> usize {
        (1..=self.line_count())
            .filter(|line| !self.is_test_at(self.line_range(*line).start))
            .count()
    }

    /// Whether a byte belongs to a test.
    pub(crate) fn is_test_at(&self, offset: usize) -> bool {
        self.test_regions.iter().any(|region| region.contains(&offset))
    }

    /// The test functions.
    pub(crate) fn tests(&self) -> impl Iterator<Item = &Function> {
        self.functions.iter().filter(|function| function.is_test)
    }

    /// Module paths (without extension) of `#[cfg(test)] mod name;`.
    pub(crate) fn test_module_paths(&self) -> Vec<String> {
        let mut paths = Vec::new();
        for region in &self.test_regions {
            let item = self.code.get(region.clone()).unwrap_or_default();
            let words: Vec<&str> =
                item.split(|c: char| !is_word(c)).filter(|word| !word.is_empty()).collect();
            let is_declaration = item.ends_with(';');
            let name =
                words.iter().position(|word| *word == "mod").and_then(|at| words.get(at + 1));
            if let (true, Some(name)) = (is_declaration, name) {
                paths.push(format!("{}/{name}", self.module_folder()));
            }
        }
        paths
    }

    /// Whether this file is the module at `module` (a path without extension), or inside it.
    pub(crate) fn is_module(&self, module: &str) -> bool {
        self.path.strip_prefix(module).is_some_and(|rest| rest == ".rs" || rest.starts_with('/'))
    }

    fn module_folder(&self) -> String {
        let stem = self.path.strip_suffix(".rs").unwrap_or(&self.path);
        let (folder, name) = stem.rsplit_once('/').unwrap_or(("", stem));
        match name {
            "lib" | "main" | "mod" => folder.to_owned(),
            _ => stem.to_owned(),
        }
    }

    fn find_functions(&self) -> Vec<Function> {
        let mut functions = Vec::new();
        for at in words(&self.code, "fn") {
            let rest = &self.code[at + 2..];
            let name_start = at + 2 + (rest.len() - rest.trim_start().len());
            let name: String =
                self.code[name_start..].chars().take_while(|c| is_word(*c)).collect();
            if name.is_empty() {
                continue;
            }
            let Some(end) = item_end(&self.code, name_start) else { continue };
            if self.code.as_bytes().get(end - 1) != Some(&b'}') {
                continue;
            }
            let line = self.line_of(at);
            let head = self.head_of(line);
            functions.push(Function {
                name,
                line,
                line_count: self.line_of(end - 1) - line + 1,
                span: at..end,
                is_test: head.is_test,
                first_doc: head.first_doc,
            });
        }
        functions
    }

    /// Reads the attributes and documentation that stand above a line.
    fn head_of(&self, line: usize) -> Head {
        let mut head = Head::default();
        let mut open = 0_i32;
        for above in (1..line).rev() {
            let range = self.line_range(above);
            let text = self.text[range.clone()].trim();
            let code = self.code[range].trim();
            if open == 0
                && let Some(doc) = text.strip_prefix("///")
            {
                head.first_doc = Some(doc.trim().to_owned());
                continue;
            }
            open += bracket_balance(code);
            let is_comment = code.is_empty() && !text.is_empty();
            let is_attribute = code.starts_with("#[");
            if !is_comment && !is_attribute && open == 0 {
                break;
            }
            if is_attribute {
                open = 0;
                head.is_test |= is_test_attribute(code);
            }
        }
        head
    }
}

#[derive(Default)]
struct Head {
    is_test: bool,
    first_doc: Option<String>,
}

/// Closing minus opening brackets: above 0 when a line ends something that began above it.
fn bracket_balance(code: &str) -> i32 {
    code.chars().fold(0, |balance, c| match c {
        '[' | '(' => balance - 1,
        ']' | ')' => balance + 1,
        _ => balance,
    })
}

fn is_test_attribute(code: &str) -> bool {
    let name = code.trim_start_matches("#[").trim_start();
    let name: String = name.chars().take_while(|c| is_word(*c) || *c == ':').collect();
    name == "test" || name.ends_with("::test")
}

/// Whether `c` may stand in a Rust identifier.
pub(crate) fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Byte offsets of `word` in `code` where it is a whole identifier.
pub(crate) fn words<'a>(code: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    code.match_indices(word).map(|(at, _)| at).filter(move |at| {
        let before = code[..*at].chars().next_back();
        let after = code[*at + word.len()..].chars().next();
        !before.is_some_and(is_word) && !after.is_some_and(is_word)
    })
}

/// End of the item that begins at `from`: past its `;`, or past the brace that closes its body.
pub(crate) fn item_end(code: &str, from: usize) -> Option<usize> {
    let mut depth = 0_i32;
    for (at, byte) in code.bytes().enumerate().skip(from) {
        match byte {
            b'(' | b'[' => depth += 1,
            b')' | b']' => depth -= 1,
            b';' if depth == 0 => return Some(at + 1),
            b'{' if depth == 0 => return brace_end(code, at),
            _ => {}
        }
    }
    None
}

/// Past the brace that closes the one at `open`.
fn brace_end(code: &str, open: usize) -> Option<usize> {
    let mut depth = 0_i32;
    for (at, byte) in code.bytes().enumerate().skip(open) {
        match byte {
            b'{' => depth += 1,
            b'}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return Some(at + 1);
        }
    }
    None
}

fn test_regions(code: &str, path: &str) -> Vec<Range<usize>> {
    if is_test_path(path) || code.contains("#![cfg(test)]") {
        return std::iter::once(0..code.len()).collect();
    }
    let mut regions: Vec<Range<usize>> = Vec::new();
    for (at, _) in code.match_indices("#[cfg(") {
        let Some(close) = code[at..].find(")]").map(|found| at + found + 2) else { continue };
        let condition = &code[at..close];
        if words(condition, "test").next().is_none() || condition.contains("not(test") {
            continue;
        }
        let mut item = close;
        while code[item..].trim_start().starts_with("#[") {
            let Some(end) = code[item..].find(']').map(|found| item + found + 1) else { break };
            item = end;
        }
        if let Some(end) = item_end(code, item) {
            regions.push(at..end);
        }
    }
    regions
}

/// Whether the path alone says that a file is a test.
pub(crate) fn is_test_path(path: &str) -> bool {
    let stem = path.strip_suffix(".rs").unwrap_or(path);
    path.starts_with("testing/")
        || path.starts_with("fuzz/")
        || stem.split('/').any(|part| matches!(part, "tests" | "benches" | "examples"))
        || ["_test", "_tests", "_fuzz", "_bench"].iter().any(|suffix| stem.ends_with(suffix))
}

/// Splits a text into code and comments of the same length.
fn split(text: &str) -> (String, String) {
    let bytes = text.as_bytes();
    let mut code = text.as_bytes().to_vec();
    let mut comments = blank(bytes);
    let mut at = 0;
    while at < bytes.len() {
        let (kind, end) = next_token(text, at);
        match kind {
            Token::Comment => {
                comments[at..end].copy_from_slice(&bytes[at..end]);
                erase(&mut code[at..end]);
            }
            Token::Literal { open, close } => {
                let inside =
                    (at + open).min(end)..end.saturating_sub(close).max(at + open).min(end);
                erase(&mut code[inside]);
            }
            Token::Code => {}
        }
        at = end;
    }
    let to_text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    (to_text(code), to_text(comments))
}

fn blank(bytes: &[u8]) -> Vec<u8> {
    let mut blank = bytes.to_vec();
    erase(&mut blank);
    blank
}

fn erase(bytes: &mut [u8]) {
    for byte in bytes.iter_mut().filter(|byte| **byte != b'\n') {
        *byte = b' ';
    }
}

enum Token {
    Code,
    Comment,
    /// A literal, with the lengths of its opening and closing delimiters.
    Literal {
        open: usize,
        close: usize,
    },
}

/// The token at `at` and where it ends, which is beyond `at`.
fn next_token(text: &str, at: usize) -> (Token, usize) {
    let rest = &text[at..];
    let after_word = text[..at].chars().next_back().is_some_and(is_word);
    if rest.starts_with("//") {
        return (Token::Comment, at + rest.find('\n').unwrap_or(rest.len()));
    }
    if rest.starts_with("/*") {
        return (Token::Comment, at + block_comment_length(rest));
    }
    if !after_word && let Some((open, length)) = raw_string_length(rest) {
        let close = open - rest.find('#').filter(|found| *found < open).unwrap_or(open - 1);
        return (Token::Literal { open, close }, at + length);
    }
    if rest.starts_with('"') {
        return (Token::Literal { open: 1, close: 1 }, at + string_length(rest));
    }
    if let Some(length) = char_length(rest) {
        return (Token::Literal { open: 1, close: 1 }, at + length);
    }
    (Token::Code, at + rest.chars().next().map_or(1, char::len_utf8))
}

fn block_comment_length(rest: &str) -> usize {
    let bytes = rest.as_bytes();
    let mut depth = 0;
    let mut at = 0;
    while at < bytes.len() {
        if bytes[at..].starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if bytes[at..].starts_with(b"*/") {
            depth -= 1;
            at += 2;
        } else {
            at += 1;
        }
        if depth == 0 {
            return at;
        }
    }
    bytes.len()
}

/// Lengths of the opening delimiter and of the whole raw string that begins here.
fn raw_string_length(rest: &str) -> Option<(usize, usize)> {
    let prefix = ["r", "br", "cr"].into_iter().find(|prefix| {
        rest.strip_prefix(prefix)
            .is_some_and(|after| after.trim_start_matches('#').starts_with('"'))
    })?;
    let hashes = rest[prefix.len()..].bytes().take_while(|byte| *byte == b'#').count();
    let open = prefix.len() + hashes + 1;
    let close = format!("\"{}", "#".repeat(hashes));
    let length = rest[open..].find(&close).map_or(rest.len(), |found| open + found + close.len());
    Some((open, length))
}

fn string_length(rest: &str) -> usize {
    let mut is_escaped = false;
    for (at, byte) in rest.bytes().enumerate().skip(1) {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' => is_escaped = true,
            b'"' => return at + 1,
            _ => {}
        }
    }
    rest.len()
}

/// Length of a character literal, or nothing if the quote begins a lifetime.
fn char_length(rest: &str) -> Option<usize> {
    let inside = rest.strip_prefix('\'')?;
    let first = inside.chars().next()?;
    if first == '\\' {
        let escaped = inside.char_indices().nth(2)?.0;
        return inside[escaped..].find('\'').map(|found| 1 + escaped + found + 1);
    }
    inside[first.len_utf8()..].starts_with('\'').then_some(1 + first.len_utf8() + 1)
}

#[cfg(test)]
#[path = "source_test.rs"]
mod source_test;
