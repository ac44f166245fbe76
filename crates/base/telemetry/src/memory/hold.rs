//! Bytes that stay charged while somebody holds them.
//!
//! A hold may end on another thread than the one on which it began. Its changes go through the
//! batch of the thread on which they happen.

use bytes::Bytes;

use crate::memory::account::signed;
use crate::memory::{Account, Share, batch};

/// A charge that ends when it is dropped.
#[derive(Debug)]
pub struct Hold {
    account: Account,
    share: Share,
    bytes: usize,
}

impl Hold {
    pub(super) fn new(account: Account, share: Share, bytes: usize) -> Self {
        let mut hold = Self { account, share, bytes: 0 };
        hold.resize(bytes);
        hold
    }

    /// Charges `bytes` instead of what was charged.
    #[inline]
    pub fn resize(&mut self, bytes: usize) {
        if bytes != self.bytes {
            let change = signed(bytes) - signed(self.bytes);
            self.bytes = bytes;
            batch::note(&self.account, self.share, change);
        }
    }

    /// Moves the charge to another account.
    pub fn move_to(&mut self, account: Account) {
        let bytes = self.bytes;
        self.resize(0);
        self.account = account;
        self.resize(bytes);
    }

    /// What is charged.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// To whom it is charged.
    #[must_use]
    pub fn account(&self) -> &Account {
        &self.account
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.resize(0);
    }
}

/// Bytes with their charge.
struct Kept<T> {
    bytes: T,
    _hold: Hold,
}

impl<T: AsRef<[u8]>> AsRef<[u8]> for Kept<T> {
    fn as_ref(&self) -> &[u8] {
        self.bytes.as_ref()
    }
}

impl Account {
    /// Charges until the hold is dropped, in this thread's steps.
    #[must_use]
    pub fn hold(&self, share: Share, bytes: usize) -> Hold {
        Hold::new(self.clone(), share, bytes)
    }

    /// Shares `bytes`, and charges `held` once until the last who has a part of them drops it.
    #[must_use]
    pub fn keep<T>(&self, share: Share, bytes: T, held: usize) -> Bytes
    where
        T: AsRef<[u8]> + Send + 'static,
    {
        Bytes::from_owner(Kept { bytes, _hold: self.hold(share, held) })
    }
}
