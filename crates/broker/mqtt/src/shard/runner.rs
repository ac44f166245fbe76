//! The thread of a shard: its runtime and its tasks.
//!
//! Tasks of a shard run on one thread and reach the shard through a thread-local cell, borrowed
//! for the length of one poll and never across an await.

use std::{
    cell::RefCell,
    future::{Future, poll_fn},
    sync::Arc,
    task::Poll,
    time::Duration,
};

use ratatosk_contract::{SessionRef, ShardId};
use tokio::{runtime::Builder, task::LocalSet};

use super::{Shard, TICK, mailbox::Batch, read::Turn, rest::Rest};
use crate::node::Node;

thread_local! {
    static SHARD: RefCell<Option<Shard>> = const { RefCell::new(None) };
    static REST: Rest = Rest::default();
}

/// Works on this thread's shard.
///
/// # Panics
/// If this thread has none, or if it is in hands already.
pub(super) fn with<R>(work: impl FnOnce(&mut Shard) -> R) -> R {
    SHARD.with_borrow_mut(|shard| work(shard.as_mut().expect("this thread runs a shard")))
}

/// Runs a task on this thread's shard until it is done or the shard stops.
pub(super) fn spawn(task: impl Future<Output = ()> + 'static) {
    tokio::task::spawn_local(task);
}

/// Runs a shard until `stop` is told.
pub(crate) fn run(
    id: ShardId,
    node: &Arc<Node>,
    stop: tokio::sync::watch::Receiver<bool>,
) -> std::io::Result<()> {
    let clock = node.clock;
    let runtime = Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .on_thread_park(move || {
            if REST.with(|rest| rest.yields(clock.now())) {
                std::thread::yield_now();
            }
        })
        .build()?;
    SHARD.set(Some(Shard::new(id, Arc::clone(node))));
    let local = LocalSet::new();
    let mut stop = stop;
    local.block_on(&runtime, async {
        spawn(mind_output());
        spawn(mind_mailbox(Arc::clone(node), id));
        spawn(mind_time());
        // Stopping is the service's to decide; a sender that is gone means the same.
        while !*stop.borrow_and_update() {
            if stop.changed().await.is_err() {
                break;
            }
        }
    });
    // Tasks go before the shard that they work on.
    drop(local);
    SHARD.set(None);
    Ok(())
}

/// The task of one connection.
pub(super) fn serve(session: SessionRef) {
    spawn(poll_fn(move |context| {
        REST.with(Rest::note_turn);
        match with(|shard| shard.turn(session, context)) {
            Turn::Gone => Poll::Ready(()),
            Turn::Done => Poll::Pending,
            Turn::Again => {
                context.waker().wake_by_ref();
                Poll::Pending
            }
        }
    }));
}

/// The flusher: runs behind the tasks that made something dirty.
async fn mind_output() {
    loop {
        while with(Shard::flush) {
            // Not only behind the tasks that are ready, of which it is one: sockets are looked at
            // before it goes on, or who reads much would keep everybody else from being read.
            tokio::task::yield_now().await;
        }
        let mut is_woken = false;
        poll_fn(|context| {
            if std::mem::replace(&mut is_woken, true) {
                return Poll::Ready(());
            }
            with(|shard| shard.flusher = Some(context.waker().clone()));
            Poll::Pending
        })
        .await;
    }
}

async fn mind_mailbox(node: Arc<Node>, id: ShardId) {
    let mut batch = Batch::default();
    let mut notes = Vec::new();
    loop {
        node.mailboxes[id.index()].wait().await;
        with(|shard| shard.empty_mailbox(&mut batch, &mut notes));
    }
}

async fn mind_time() {
    let mut ticks = tokio::time::interval(Duration::max(TICK, Duration::from_millis(1)));
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        with(Shard::tick);
    }
}
