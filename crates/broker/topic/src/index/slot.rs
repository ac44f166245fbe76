//! A filter as it is stored: its text, once, and where it hangs in the trie.

/// A filter's text and place.
#[derive(Default)]
pub(super) struct Slot {
    pub(super) text: Box<str>,
    pub(super) place: Place,
}

// Two words of text and one of place: the budget is some 80 bytes a filter, all included.
const _: () = assert!(size_of::<Slot>() == 24);

/// Where a filter hangs, packed into one word.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub(super) struct Place {
    /// The node, unless `mark` is `EXACT`.
    node: u32,
    /// Offset of the level below the node for a leaf; one of the constants otherwise.
    mark: u32,
}

const EXACT: u32 = u32::MAX;
const END: u32 = u32::MAX - 1;
const HASH: u32 = u32::MAX - 2;

/// A [`Place`], unpacked.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub(super) enum Position {
    /// Not in the trie: only the table of texts knows it.
    Exact,
    /// The only filter below an edge of `node`; its text from byte `at` has not been unfolded.
    Leaf { node: u32, at: usize },
    /// Its last level leads to the node.
    End { node: u32 },
    /// Its levels but for the final `#` lead to the node.
    Hash { node: u32 },
}

impl Default for Place {
    fn default() -> Self {
        Self::new(Position::Exact)
    }
}

impl Place {
    pub(super) fn new(position: Position) -> Self {
        match position {
            Position::Exact => Self { node: 0, mark: EXACT },
            Position::End { node } => Self { node, mark: END },
            Position::Hash { node } => Self { node, mark: HASH },
            Position::Leaf { node, at } => {
                let mark = u32::try_from(at).unwrap_or(EXACT);
                assert!(mark < HASH, "offset {at} is beyond any filter");
                Self { node, mark }
            }
        }
    }

    #[inline]
    pub(super) fn position(self) -> Position {
        match self {
            Self { mark: EXACT, .. } => Position::Exact,
            Self { mark: END, node } => Position::End { node },
            Self { mark: HASH, node } => Position::Hash { node },
            Self { mark, node } => Position::Leaf { node, at: mark as usize },
        }
    }
}

impl Slot {
    /// The part of the text from the level below `node`, if the filter is a leaf of that node.
    #[inline]
    pub(super) fn leaf_of(&self, node: u32) -> Option<&[u8]> {
        match self.place.position() {
            Position::Leaf { node: parent, at } if parent == node => {
                Some(&self.text.as_bytes()[at..])
            }
            _ => None,
        }
    }
}
