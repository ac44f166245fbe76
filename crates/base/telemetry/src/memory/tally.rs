//! A tally: charges of one thread to one account, passed on in batches.
//!
//! `|pending[share]| ≤ FLUSH_BYTES` after every call, and zero after [`Tally::flush`], which a
//! shard calls at the end of its tick. So the books are wrong by at most that, per shard and
//! tenant, and only within a tick.

use crate::memory::account::signed;
use crate::memory::{Account, SHARES, Share};

/// A batch larger than this is passed on at once.
pub const FLUSH_BYTES: usize = 64 * 1024;

/// One thread's pending charges to one account. Dropping it passes them on.
#[derive(Debug)]
pub struct Tally {
    account: Account,
    pending: [i64; SHARES],
}

impl Tally {
    pub(super) fn new(account: Account) -> Self {
        Self { account, pending: [0; SHARES] }
    }

    /// Whose tally it is.
    #[must_use]
    pub fn account(&self) -> &Account {
        &self.account
    }

    /// Charges: an addition, and seldom more.
    pub fn charge(&mut self, share: Share, bytes: usize) {
        self.change(share, signed(bytes));
    }

    /// Takes a charge back.
    pub fn release(&mut self, share: Share, bytes: usize) {
        self.change(share, -signed(bytes));
    }

    /// Passes everything on.
    pub fn flush(&mut self) {
        if self.pending != [0; SHARES] {
            self.account.post(&std::mem::take(&mut self.pending));
        }
    }

    fn change(&mut self, share: Share, change: i64) {
        let pending = &mut self.pending[share.index()];
        *pending = pending.saturating_add(change);
        if pending.unsigned_abs() > FLUSH_BYTES as u64 {
            self.flush();
        }
    }
}

impl Drop for Tally {
    fn drop(&mut self) {
        self.flush();
    }
}
