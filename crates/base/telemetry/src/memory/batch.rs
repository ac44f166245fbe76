//! Changes of accounts that this thread has not posted yet.
//!
//! The packet path charges and releases a few bytes at a time. A thread adds them up here and
//! posts them in steps, so that what threads share is touched seldom. `Σ |unposted| ≤ step` after
//! every call, over all accounts of the thread, and zero after [`post_changes`], which a shard
//! calls at each tick. So the books are wrong by at most that for each thread, and not for long.

use std::cell::RefCell;

use crate::memory::{Account, SHARES, Share};

/// The largest step, and the smallest: a small limit is approached in small ones.
const STEP_MAX: u64 = 64 * 1024;
const STEP_MIN: u64 = 4 * 1024;
/// So many steps make the limit: threads that hide one each do not matter.
const STEPS: u64 = 1024;
/// Accounts beyond this are posted before the next is noted.
const ACCOUNTS_MAX: usize = 16;

thread_local! {
    static BATCH: RefCell<Batch> = const { RefCell::new(Batch::new()) };
}

/// How much a thread may leave unposted under a limit.
pub(super) fn step(limit: u64) -> u64 {
    (limit / STEPS).clamp(STEP_MIN, STEP_MAX)
}

/// Posts what this thread has charged and released.
pub fn post_changes() {
    // A thread that ends has posted already.
    let _ = BATCH.try_with(|batch| batch.borrow_mut().post());
}

/// Notes a change; posts what there is if it is more than a step.
pub(super) fn note(account: &Account, share: Share, change: i64) {
    let noted = BATCH.try_with(|batch| batch.borrow_mut().note(account, share, change));
    if noted.is_err() {
        account.post_one(share, change);
    }
}

struct Batch {
    changes: Vec<Change>,
    /// The sum of their amounts.
    unposted: u64,
    /// Whose change was the last: mostly that of the next.
    last: usize,
}

struct Change {
    account: Account,
    amounts: [i64; SHARES],
}

impl Batch {
    const fn new() -> Self {
        Batch { changes: Vec::new(), unposted: 0, last: 0 }
    }

    fn note(&mut self, account: &Account, share: Share, change: i64) {
        let at = self.place(account);
        let amount = &mut self.changes[at].amounts[share.index()];
        let before = amount.unsigned_abs();
        *amount = amount.saturating_add(change);
        self.unposted = (self.unposted - before).saturating_add(amount.unsigned_abs());
        if self.unposted > account.step() {
            self.post();
        }
    }

    fn place(&mut self, account: &Account) -> usize {
        if self.changes.get(self.last).is_some_and(|change| change.account.is_same(account)) {
            return self.last;
        }
        let known = self.changes.iter().position(|change| change.account.is_same(account));
        self.last = known.unwrap_or_else(|| {
            if self.changes.len() == ACCOUNTS_MAX {
                self.post();
            }
            self.changes.push(Change { account: account.clone(), amounts: [0; SHARES] });
            self.changes.len() - 1
        });
        self.last
    }

    fn post(&mut self) {
        for change in self.changes.drain(..) {
            change.account.post(&change.amounts);
        }
        self.unposted = 0;
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        self.post();
    }
}
