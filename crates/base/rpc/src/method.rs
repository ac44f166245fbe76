//! What is generated for each method of a service, and what both sides know it by.

use std::fmt;
use std::marker::PhantomData;

/// What can be a message: what `prost` makes of a `.proto`.
pub trait Message: prost::Message + Default + 'static {}

impl<M: prost::Message + Default + 'static> Message for M {}

/// How questions and answers go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MethodKind {
    /// One question, one answer; calls do not know of each other.
    Unary,
    /// One question, one answer, many of them one behind the other in one stream: handlers begin
    /// in the order of the questions, and answers come in that order.
    Pipeline,
    /// Messages both ways, as many as the receiving side has given credit for.
    Stream,
}

impl MethodKind {
    /// The word for metrics.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Unary => "unary",
            Self::Pipeline => "pipeline",
            Self::Stream => "stream",
        }
    }
}

/// A method that takes messages `Q` and answers with messages `A`.
pub struct Method<Q, A> {
    service: &'static str,
    name: &'static str,
    kind: MethodKind,
    types: PhantomData<fn(Q) -> A>,
}

impl<Q, A> Method<Q, A> {
    /// The method `name` of `service`, as the `.proto` writes them.
    #[must_use]
    pub const fn new(service: &'static str, name: &'static str, kind: MethodKind) -> Self {
        Self { service, name, kind, types: PhantomData }
    }

    /// The full name of its service.
    #[must_use]
    pub const fn service(&self) -> &'static str {
        self.service
    }

    /// Its name within the service.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// How questions and answers go.
    #[must_use]
    pub const fn kind(&self) -> MethodKind {
        self.kind
    }
}

impl<Q, A> Clone for Method<Q, A> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<Q, A> Copy for Method<Q, A> {}

impl<Q, A> fmt::Debug for Method<Q, A> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}/{} ({})", self.service, self.name, self.kind.word())
    }
}
