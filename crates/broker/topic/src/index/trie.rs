//! The wildcard filters of an index, as a trie over levels.
//!
//! A filter that shares no further level with another hangs as a leaf, with the rest of its text
//! compared in one go; a second filter below the same edge unfolds it by the levels that both share.
//! Edges to literal levels are in one hash table for the whole trie, keyed by (node, level); the
//! edge `+` and the filters that end at a node are fields of the node.
//!
//! Invariants:
//! - each node but the root has something below it: `1 ≤ edges + plus + end + hash`;
//! - a label has as many references as nodes carry its token;
//! - a child hangs below exactly one edge, so a walk reaches each node and each leaf at most once.
//!
//! Cost of a walk over a topic of `L` levels: at level `i` at most `min(2^i, nodes at depth i)` nodes
//! are visited, in all never more than there are nodes, each with one probe of the edge table. Each
//! leaf met is compared once, in at most one pass over its text. Nothing recurses: the frontier of
//! one level is a list. What one tenant can make a walk cost is thus linear in what it has stored.

use std::collections::BTreeMap;

use smallvec::SmallVec;

use super::arena::Arena;
use super::hash::{Seed, Table, fold};
use super::labels::Labels;
use super::slot::{Place, Position, Slot};
use crate::wildcard::{level_at, tail_matches};

const ROOT: u32 = 0;

/// No filter, no child.
const NONE: u32 = u32::MAX;

/// Token of the level `+`, which no label has.
const PLUS: u32 = u32::MAX - 1;

/// Marks a child that is a leaf: the number is a filter's.
const LEAF: u32 = 1 << 31;

#[derive(Copy, Clone)]
struct Node {
    parent: u32,
    /// Label of the edge from the parent, or `PLUS`.
    token: u32,
    /// Child below `+`, a leaf if marked.
    plus: u32,
    /// Filter whose last level leads here.
    end: u32,
    /// Filter that ends with `#` below this node.
    hash: u32,
    /// Number of edges to literal levels.
    edges: u32,
}

const _: () = assert!(size_of::<Node>() == 24);

impl Default for Node {
    fn default() -> Self {
        Self { parent: NONE, token: NONE, plus: NONE, end: NONE, hash: NONE, edges: 0 }
    }
}

impl Node {
    fn is_bare(&self) -> bool {
        self.edges == 0 && self.plus == NONE && self.end == NONE && self.hash == NONE
    }
}

/// A child as the tables hold it.
enum Child {
    Node(u32),
    Leaf(u32),
}

impl Child {
    #[inline]
    fn unpack(packed: u32) -> Option<Self> {
        match packed {
            NONE => None,
            _ if packed & LEAF != 0 => Some(Self::Leaf(packed & !LEAF)),
            _ => Some(Self::Node(packed)),
        }
    }
}

/// One level of the text at hand. Hash and token are found out once, at the first need.
struct Level<'t> {
    text: &'t [u8],
    hash: Option<u64>,
    token: Option<u32>,
}

impl<'t> Level<'t> {
    #[inline]
    fn new(text: &'t [u8]) -> Self {
        Self { text, hash: None, token: None }
    }

    #[inline]
    fn hash(&mut self, seed: &Seed) -> u64 {
        *self.hash.get_or_insert_with(|| seed.hash(self.text))
    }
}

pub(super) struct Trie {
    nodes: Arena<Node>,
    edges: Table,
    labels: Labels,
}

impl Trie {
    pub(super) fn new() -> Self {
        let mut nodes = Arena::new();
        let root = nodes.insert(Node::default());
        assert_eq!(root, ROOT, "the first number is the lowest");
        Self { nodes, edges: Table::default(), labels: Labels::new() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.nodes[ROOT].is_bare()
    }

    /// Number of inner nodes, the root included.
    pub(super) fn node_count(&self) -> usize {
        self.nodes.len()
    }

    pub(super) fn memory(&self) -> usize {
        self.nodes.memory() + self.edges.memory() + self.labels.memory()
    }

    /// Hangs the filter `id` into the trie. `text` is that of its slot, a well-formed filter that is
    /// not in the trie yet.
    pub(super) fn insert(&mut self, seed: &Seed, slots: &mut Arena<Slot>, id: u32, text: &[u8]) {
        let (mut node, mut at) = (ROOT, 0);
        loop {
            let mut level = Level::new(level_at(text, at));
            let below = match self.child(seed, slots, node, &mut level) {
                None => return self.attach(seed, slots, node, id, at),
                Some(Child::Node(below)) => below,
                Some(Child::Leaf(other)) => self.unfold(seed, slots, other, &mut level),
            };
            at += level.text.len() + 1;
            if at > text.len() {
                return self.attach_end(slots, below, id);
            }
            node = below;
        }
    }

    /// Takes the filter `id` out, with the nodes that only it needed. A slot outside the trie is left
    /// alone.
    pub(super) fn remove(&mut self, seed: &Seed, id: u32, slot: &Slot) {
        let node = match slot.place.position() {
            Position::Exact => return,
            Position::End { node } => {
                self.nodes[node].end = NONE;
                node
            }
            Position::Hash { node } => {
                self.nodes[node].hash = NONE;
                node
            }
            Position::Leaf { node, at } => {
                let level = level_at(slot.text.as_bytes(), at);
                if level == b"+" {
                    self.nodes[node].plus = NONE;
                } else {
                    self.cut_edge(node, seed.hash(level), LEAF | id);
                }
                node
            }
        };
        self.prune(seed, node);
    }

    /// Appends the filters that match `topic`, each once, and tells how many nodes were visited.
    pub(super) fn matches(
        &self,
        seed: &Seed,
        slots: &Arena<Slot>,
        topic: &[u8],
        mut found: impl FnMut(u32),
    ) -> usize {
        let mut frontier: SmallVec<[u32; 32]> = SmallVec::new();
        let mut following: SmallVec<[u32; 32]> = SmallVec::new();
        frontier.push(ROOT);
        // [MQTT-4.7.2-1] The wildcards of the root are leading ones.
        let mut takes_wildcards = topic.first() != Some(&b'$');
        let mut visited = 0;
        let mut at = 0;
        while !frontier.is_empty() {
            let mut level = Level::new(level_at(topic, at));
            let is_last = at + level.text.len() == topic.len();
            visited += frontier.len();
            for &number in &frontier {
                let node = &self.nodes[number];
                let mut children = [None, None];
                if takes_wildcards {
                    if node.hash != NONE {
                        found(node.hash);
                    }
                    children[0] = Child::unpack(node.plus);
                }
                if node.edges > 0 {
                    children[1] = self.edge(seed, slots, number, &mut level);
                }
                for child in children.into_iter().flatten() {
                    match child {
                        Child::Node(below) => following.push(below),
                        Child::Leaf(id) => {
                            let rest = slots[id].leaf_of(number);
                            if rest.is_some_and(|rest| tail_matches(rest, &topic[at..])) {
                                found(id);
                            }
                        }
                    }
                }
            }
            if is_last {
                self.finish(&following, &mut found);
                return visited + following.len();
            }
            at += level.text.len() + 1;
            takes_wildcards = true;
            frontier.clear();
            std::mem::swap(&mut frontier, &mut following);
        }
        visited
    }

    /// At the nodes that the topic's last level leads to: what ends there, and what goes on with `#`,
    /// which matches the parent level too.
    fn finish(&self, reached: &[u32], found: &mut impl FnMut(u32)) {
        for &number in reached {
            let node = &self.nodes[number];
            for filter in [node.end, node.hash] {
                if filter != NONE {
                    found(filter);
                }
            }
        }
    }

    /// What is below the edge `level` of `node`. `#` is no edge.
    fn child(
        &self,
        seed: &Seed,
        slots: &Arena<Slot>,
        node: u32,
        level: &mut Level<'_>,
    ) -> Option<Child> {
        match level.text {
            b"#" => None,
            b"+" => Child::unpack(self.nodes[node].plus),
            _ => self.edge(seed, slots, node, level),
        }
    }

    #[inline]
    fn edge(
        &self,
        seed: &Seed,
        slots: &Arena<Slot>,
        node: u32,
        level: &mut Level<'_>,
    ) -> Option<Child> {
        let hash = edge_hash(node, level.hash(seed));
        let text = level.text;
        let found = self.edges.find(hash, |packed| match Child::unpack(packed) {
            None => false,
            Some(Child::Leaf(id)) => {
                let rest = slots[id].leaf_of(node);
                rest.is_some_and(|rest| level_at(rest, 0) == text)
            }
            Some(Child::Node(below)) => {
                let below = &self.nodes[below];
                if below.parent != node || below.token == PLUS {
                    return false;
                }
                // A label exists once: after the first comparison of texts, tokens suffice.
                let is_equal = match level.token {
                    Some(token) => token == below.token,
                    None => self.labels.text(below.token) == text,
                };
                if is_equal {
                    level.token = Some(below.token);
                }
                is_equal
            }
        });
        found.and_then(Child::unpack)
    }

    /// Panics unless the invariants at the head hold and each filter hangs where its slot says.
    pub(super) fn check_invariants(&self, seed: &Seed, slots: &Arena<Slot>) {
        let mut edges: BTreeMap<u32, u32> = BTreeMap::new();
        let mut references: BTreeMap<u32, u32> = BTreeMap::new();
        for (number, node) in self.nodes.iter() {
            if number == ROOT {
                continue;
            }
            assert!(!node.is_bare(), "node {number} has something below it");
            if node.token == PLUS {
                assert_eq!(self.nodes[node.parent].plus, number, "the parent knows node {number}");
                continue;
            }
            *edges.entry(node.parent).or_default() += 1;
            *references.entry(node.token).or_default() += 1;
            let mut level = Level::new(self.labels.text(node.token));
            let found = self.edge(seed, slots, node.parent, &mut level);
            assert!(matches!(found, Some(Child::Node(id)) if id == number), "edge to {number}");
        }
        for (id, slot) in slots.iter() {
            match slot.place.position() {
                Position::Exact => {}
                Position::End { node } => assert_eq!(self.nodes[node].end, id, "filter {id}"),
                Position::Hash { node } => assert_eq!(self.nodes[node].hash, id, "filter {id}"),
                Position::Leaf { node, at } => {
                    let mut level = Level::new(level_at(slot.text.as_bytes(), at));
                    let found = self.child(seed, slots, node, &mut level);
                    assert!(matches!(found, Some(Child::Leaf(leaf)) if leaf == id), "leaf {id}");
                    if level.text != b"+" {
                        *edges.entry(node).or_default() += 1;
                    }
                }
            }
        }
        let total = edges.values().map(|count| *count as usize).sum::<usize>();
        assert_eq!(self.edges.len(), total, "each edge has one entry");
        for (number, node) in self.nodes.iter() {
            assert_eq!(node.edges, edges.remove(&number).unwrap_or(0), "edges of node {number}");
        }
        assert!(self.labels.references().eq(references), "each label counts its nodes");
    }

    /// Hangs the filter `id` below `node`, where nothing hangs under its level at `at`.
    fn attach(&mut self, seed: &Seed, slots: &mut Arena<Slot>, node: u32, id: u32, at: usize) {
        let level = level_at(slots[id].text.as_bytes(), at);
        let position = match level {
            b"#" => {
                assert_eq!(self.nodes[node].hash, NONE, "filter {id} is new");
                self.nodes[node].hash = id;
                Position::Hash { node }
            }
            b"+" => {
                assert_eq!(self.nodes[node].plus, NONE, "nothing hangs below '+'");
                self.nodes[node].plus = LEAF | id;
                Position::Leaf { node, at }
            }
            _ => {
                self.edges.insert(edge_hash(node, seed.hash(level)), LEAF | id);
                self.nodes[node].edges += 1;
                Position::Leaf { node, at }
            }
        };
        slots[id].place = Place::new(position);
    }

    fn attach_end(&mut self, slots: &mut Arena<Slot>, node: u32, id: u32) {
        assert_eq!(self.nodes[node].end, NONE, "filter {id} is new");
        self.nodes[node].end = id;
        slots[id].place = Place::new(Position::End { node });
    }

    /// Puts a node where the leaf `other` hangs under `level`, and the leaf below it. Returns the node.
    fn unfold(
        &mut self,
        seed: &Seed,
        slots: &mut Arena<Slot>,
        other: u32,
        level: &mut Level<'_>,
    ) -> u32 {
        let Position::Leaf { node: parent, at } = slots[other].place.position() else {
            unreachable!("filter {other} was found as a leaf");
        };
        let below = if level.text == b"+" {
            let below = self.nodes.insert(Node { parent, token: PLUS, ..Node::default() });
            self.nodes[parent].plus = below;
            below
        } else {
            let hash = level.hash(seed);
            let token = self.labels.acquire(hash, level.text);
            let below = self.nodes.insert(Node { parent, token, ..Node::default() });
            self.edges.replace(edge_hash(parent, hash), LEAF | other, below);
            below
        };
        let next = at + level.text.len() + 1;
        if next > slots[other].text.len() {
            self.attach_end(slots, below, other);
        } else {
            self.attach(seed, slots, below, other, next);
        }
        below
    }

    /// Removes `node` and its ancestors as far as nothing hangs below them.
    fn prune(&mut self, seed: &Seed, mut node: u32) {
        while node != ROOT && self.nodes[node].is_bare() {
            let Node { parent, token, .. } = self.nodes.remove(node);
            if token == PLUS {
                self.nodes[parent].plus = NONE;
            } else {
                let hash = seed.hash(self.labels.text(token));
                self.cut_edge(parent, hash, node);
                self.labels.release(hash, token);
            }
            node = parent;
        }
    }

    fn cut_edge(&mut self, node: u32, level_hash: u64, packed: u32) {
        assert!(self.nodes[node].edges > 0, "node {node} has an edge to cut");
        self.edges.remove(edge_hash(node, level_hash), packed);
        self.nodes[node].edges -= 1;
    }
}

#[inline]
fn edge_hash(node: u32, level_hash: u64) -> u32 {
    // The level's hash is secret, so nobody can aim nodes at each other's buckets.
    fold(level_hash ^ u64::from(node).wrapping_mul(0xD6E8_FEB8_6659_FD93))
}
