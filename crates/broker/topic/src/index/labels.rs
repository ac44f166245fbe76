//! Level texts of the trie's inner nodes, each stored once and counted.

use super::arena::Arena;
use super::hash::{Table, fold};

#[derive(Default)]
struct Label {
    text: Box<[u8]>,
    references: u32,
}

/// Level text to token and back. A token lives while somebody holds a reference.
pub(super) struct Labels {
    labels: Arena<Label>,
    by_text: Table,
    text_memory: usize,
}

impl Labels {
    pub(super) fn new() -> Self {
        Self { labels: Arena::new(), by_text: Table::default(), text_memory: 0 }
    }

    /// The token of `text`, with one more reference. `hash` is that of the text.
    pub(super) fn acquire(&mut self, hash: u64, text: &[u8]) -> u32 {
        let labels = &self.labels;
        let known = self.by_text.find(fold(hash), |token| *labels[token].text == *text);
        if let Some(token) = known {
            self.labels[token].references += 1;
            return token;
        }
        let token = self.labels.insert(Label { text: text.into(), references: 1 });
        self.by_text.insert(fold(hash), token);
        self.text_memory += super::heap_size(text.len());
        token
    }

    /// Gives one reference back, the last one frees the label.
    pub(super) fn release(&mut self, hash: u64, token: u32) {
        let label = &mut self.labels[token];
        assert!(label.references > 0, "label {token} has no references");
        label.references -= 1;
        if label.references == 0 {
            self.by_text.remove(fold(hash), token);
            let label = self.labels.remove(token);
            self.text_memory -= super::heap_size(label.text.len());
        }
    }

    #[inline]
    pub(super) fn text(&self, token: u32) -> &[u8] {
        &self.labels[token].text
    }

    pub(super) fn memory(&self) -> usize {
        self.labels.memory() + self.by_text.memory() + self.text_memory
    }

    /// Tokens with their counts of references.
    pub(super) fn references(&self) -> impl Iterator<Item = (u32, u32)> {
        self.labels.iter().map(|(token, label)| (token, label.references))
    }
}
