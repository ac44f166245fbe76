//! Users of a password file: passwords in CONNECT, and SCRAM-SHA-256 as enhanced authentication.
//!
//! A password is compared on a worker thread, because it takes some 10 ms and 19 MiB: the packet
//! path never waits for it. An unknown user costs as much as a wrong password, and is told the
//! same.
//!
//! A password that was proven is remembered until the file is reloaded, as a keyed digest under a
//! key that never leaves the process: when a fleet comes back after an interruption, nobody waits
//! for the slow hash again. A password that was not proven takes the slow way each time, so
//! guessing gains nothing.

mod exchange;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;
use parking_lot::Mutex;

use super::Tenancy;
use crate::answer::Answer;
use crate::auth::{AuthExchange, AuthProvider, AuthRequest, AuthResult, DenialReason};
use crate::file::{self, FileError};
use crate::password_file::{Argon2Hash, Users};
use crate::plugin::Plugin;
use crate::scram;
use crate::secret::{Secret, equal_in_constant_time};
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
    /// Digests of proven passwords, by user: at most one for each user of the file.
    proven: Mutex<HashMap<Arc<str>, Digest>>,
    digest_key: Digest,
}

type Digest = [u8; 32];

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

fn load(path: &Path, mock_key: [u8; 32]) -> anyhow::Result<Known> {
    let text = file::read(path)?;
    let users = Users::parse(&text).map_err(|error| FileError::line(path, error))?;
    let mut digest_key = [0; 32];
    getrandom::fill(&mut digest_key)?;
    Ok(Known {
        proven: Mutex::new(HashMap::new()),
        digest_key,
        nobody: Argon2Hash::of_nothing(users.costliest()),
        mock: scram::Mock { key: mock_key, iterations: users.usual_iterations() },
        users,
    })
}

impl Known {
    /// Whether the user exists and this is its password; equally costly in every case.
    fn prove(&self, user: &Arc<str>, password: &Secret) -> bool {
        let hash = self.users.entry(user).and_then(|entry| entry.argon2.as_ref());
        let is_match = hash.unwrap_or(&self.nobody).is_of(password);
        let is_proven = std::hint::black_box(is_match) && hash.is_some();
        if is_proven {
            let digest = self.digest(user, password);
            self.proven.lock().insert(user.clone(), digest);
        }
        is_proven
    }

    /// Whether this password of the user was proven before.
    fn was_proven(&self, user: &str, password: &Secret) -> bool {
        let digest = self.digest(user, password);
        let proven = self.proven.lock().get(user).copied();
        proven.is_some_and(|proven| equal_in_constant_time(&proven, &digest))
    }

    fn digest(&self, user: &str, password: &Secret) -> Digest {
        // No user name holds a colon, so the two parts cannot be shifted against each other.
        scram::mac(&self.digest_key, &[user.as_bytes(), b":", password.expose()])
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
        if known.was_proven(&user, &password) {
            return Answer::Now(AuthResult::Granted(self.tenancy.grant(&user)));
        }
        let asked = user.clone();
        let promise = match self.workers.run(move || known.prove(&asked, &password)) {
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
