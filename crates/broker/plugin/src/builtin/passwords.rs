//! Users of a password file: passwords in CONNECT, and SCRAM-SHA-256 as enhanced authentication.
//!
//! A password is compared on a worker thread, because it takes some 10 ms and 19 MiB: the packet
//! path never waits for it. An unknown user costs as much as a wrong password, and is told the
//! same.

mod exchange;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;

use super::Tenancy;
use crate::answer::Answer;
use crate::auth::{AuthExchange, AuthProvider, AuthRequest, AuthResult, DenialReason};
use crate::file::{self, FileError};
use crate::password_file::{Argon2Hash, Users};
use crate::plugin::Plugin;
use crate::scram;
use crate::secret::Secret;
use crate::workers::{Lost, Workers};
use exchange::ScramExchange;

/// Threads that compare passwords. Each uses one core and, by default, 19 MiB at work.
const THREADS_MAX: usize = 4;

/// Logins that wait for a thread; at 20 ms each and one thread the last waits the host's timeout.
const QUEUE_MAX: usize = 256;

/// The users of a file, replaced as a whole by `reload`.
pub struct Passwords {
    path: PathBuf,
    tenancy: Tenancy,
    known: ArcSwap<Known>,
    workers: Workers,
    epoch: AtomicU64,
    /// Kept over reloads, so that a user that does not exist always gets the same salt.
    mock_key: [u8; 32],
}

/// The users, and what is pretended for all others.
struct Known {
    users: Users,
    nobody: Argon2Hash,
    mock: scram::Mock,
}

impl Passwords {
    /// Reads the file and starts the worker threads.
    pub fn open(path: impl Into<PathBuf>, tenancy: Tenancy) -> anyhow::Result<Self> {
        let path = path.into();
        let mut mock_key = [0; 32];
        getrandom::fill(&mut mock_key)?;
        let known = load(&path, mock_key)?;
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        Ok(Self {
            path,
            tenancy,
            known: ArcSwap::from_pointee(known),
            workers: Workers::start("passwords", threads.min(THREADS_MAX), QUEUE_MAX)?,
            epoch: AtomicU64::new(1),
            mock_key,
        })
    }
}

fn load(path: &Path, mock_key: [u8; 32]) -> Result<Known, FileError> {
    let text = Secret::from(file::read(path)?.as_str());
    let text = std::str::from_utf8(text.expose()).unwrap_or_default();
    let users = Users::parse(text).map_err(|error| FileError::line(path, error))?;
    Ok(Known {
        nobody: Argon2Hash::of_nothing(users.costliest()),
        mock: scram::Mock { key: mock_key, iterations: users.usual_iterations() },
        users,
    })
}

impl Known {
    /// Whether the user exists and this is its password; equally costly in every case.
    fn is_proven(&self, user: &str, password: &Secret) -> bool {
        match self.users.entry(user).and_then(|entry| entry.argon2.as_ref()) {
            Some(hash) => hash.is_of(password),
            None => {
                let _ = std::hint::black_box(self.nobody.is_of(password));
                false
            }
        }
    }
}

impl Plugin for Passwords {
    fn name(&self) -> &str {
        "password_file"
    }

    fn start(&self) -> anyhow::Result<()> {
        let count = self.known.load().users.count();
        tracing::info!(path = %self.path.display(), users = count, "password file");
        Ok(())
    }

    fn reload(&self) -> anyhow::Result<()> {
        let known = load(&self.path, self.mock_key)?;
        let count = known.users.count();
        tracing::info!(path = %self.path.display(), users = count, "password file reloaded");
        self.known.store(Arc::new(known));
        // After the users: who sees the new epoch must find the new users.
        self.epoch.fetch_add(1, Ordering::Release);
        Ok(())
    }

    fn stop(&self) {
        self.workers.stop();
    }
}

impl AuthProvider for Passwords {
    fn authenticate(&self, request: AuthRequest) -> Answer<AuthResult> {
        let Some(user) = request.username else {
            return Answer::Now(AuthResult::Abstained);
        };
        // That no password came is no secret, so it need not cost anything.
        let Some(password) = request.password else {
            return Answer::Now(AuthResult::denied(DenialReason::BadPassword, "no password"));
        };
        let known = self.known.load_full();
        let asked = user.clone();
        let promise = match self.workers.run(move || known.is_proven(&asked, &password)) {
            Ok(promise) => promise,
            Err(lost) => return Answer::Now(not_answered(lost)),
        };
        let tenancy = self.tenancy.clone();
        Answer::later(async move {
            match promise.await {
                Ok(true) => AuthResult::Granted(tenancy.grant(&user)),
                Ok(false) => {
                    AuthResult::denied(DenialReason::BadPassword, "unknown user or wrong password")
                }
                Err(lost) => not_answered(lost),
            }
        })
    }

    fn begin(&self, request: &AuthRequest) -> Option<Box<dyn AuthExchange>> {
        if request.method.as_deref() != Some(scram::METHOD) {
            return None;
        }
        let mut nonce = [0; 18];
        let has_nonce = getrandom::fill(&mut nonce).is_ok();
        let known = self.known.load_full();
        Some(Box::new(ScramExchange::new(known, self.tenancy.clone(), has_nonce.then_some(nonce))))
    }

    fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }
}

fn not_answered(lost: Lost) -> AuthResult {
    let detail = match lost {
        Lost::Full => "too many passwords wait to be compared",
        Lost::Stopped => "password comparison has stopped",
        Lost::Panicked => "password comparison failed",
    };
    AuthResult::denied(DenialReason::Error, detail)
}

#[cfg(test)]
#[path = "passwords/passwords_test.rs"]
mod tests;
