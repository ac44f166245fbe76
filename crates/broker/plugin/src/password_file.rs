//! The password file: users and what is stored of their passwords. Pure.
//!
//! ```text
//! # a comment
//! alice:$argon2id$v=19$m=19456,t=2,p=1$<salt>$<hash>
//! alice:SCRAM-SHA-256$16384:<salt>$<StoredKey>:<ServerKey>
//! ```
//!
//! A user has at most one line of each kind: argon2id for a password in CONNECT, SCRAM for the
//! method of that name. No message about a line repeats what it stores.

use std::collections::HashMap;

use argon2::{Algorithm, Argon2, Params, PasswordHash, Version};

use crate::file::LineError;
use crate::scram;
use crate::secret::{Secret, equal_in_constant_time};

/// Longest user name, in bytes: what CONNECT can carry.
const USER_BYTES_MAX: usize = 65_535;

/// Costs beyond these are a mistake, or would let a few logins take the machine.
const MEMORY_KIB_MAX: u32 = 1_048_576;
const PASSES_MAX: u32 = 64;
const LANES_MAX: u32 = 16;
const HASH_BYTES_MIN: usize = 16;

/// All users of a file.
#[derive(Debug, Default)]
pub(crate) struct Users {
    users: HashMap<String, Entry>,
}

/// What is stored of one user.
#[derive(Debug, Clone, Default)]
pub(crate) struct Entry {
    pub(crate) argon2: Option<Argon2Hash>,
    pub(crate) scram: Option<scram::Keys>,
}

/// One line that names a user.
pub(crate) struct Line<'a> {
    pub(crate) user: &'a str,
    pub(crate) stored: Stored,
}

/// What one line stores.
pub(crate) enum Stored {
    Argon2(Argon2Hash),
    Scram(scram::Keys),
}

impl Users {
    /// Reads a file. The first line that is wrong ends it.
    pub(crate) fn parse(text: &str) -> Result<Self, LineError> {
        let mut users: HashMap<String, Entry> = HashMap::new();
        for (index, text) in text.lines().enumerate() {
            let fail = |why: String| LineError { line: index + 1, why };
            let Some(line) = Line::parse(text).map_err(fail)? else { continue };
            let entry = users.entry(line.user.to_owned()).or_default();
            let is_second = match line.stored {
                Stored::Argon2(hash) => entry.argon2.replace(hash).is_some(),
                Stored::Scram(keys) => entry.scram.replace(keys).is_some(),
            };
            if is_second {
                return Err(fail(format!("user {:?} has a second line of this kind", line.user)));
            }
        }
        Ok(Self { users })
    }

    pub(crate) fn entry(&self, user: &str) -> Option<&Entry> {
        self.users.get(user)
    }

    pub(crate) fn count(&self) -> usize {
        self.users.len()
    }

    /// The costliest hash's parameters: what a login of an unknown user shall cost.
    pub(crate) fn costliest(&self) -> Params {
        let hashes = self.users.values().filter_map(|entry| entry.argon2.as_ref());
        let cost = |params: &Params| u64::from(params.m_cost()) * u64::from(params.t_cost());
        hashes
            .map(|hash| &hash.params)
            .max_by_key(|params| cost(params))
            .cloned()
            .unwrap_or_default()
    }

    /// The iterations that most users' keys have: what a user that does not exist pretends.
    pub(crate) fn usual_iterations(&self) -> u32 {
        let mut counts: HashMap<u32, usize> = HashMap::new();
        for keys in self.users.values().filter_map(|entry| entry.scram.as_ref()) {
            *counts.entry(keys.iterations()).or_default() += 1;
        }
        let usual = counts.into_iter().max_by_key(|(iterations, count)| (*count, *iterations));
        usual.map_or(scram::ITERATIONS_DEFAULT, |(iterations, _)| iterations)
    }
}

impl<'a> Line<'a> {
    /// Reads one line; `None` for a comment or an empty one.
    pub(crate) fn parse(text: &'a str) -> Result<Option<Self>, String> {
        let text = text.trim_end();
        if text.is_empty() || text.starts_with('#') {
            return Ok(None);
        }
        let (user, stored) = text.split_once(':').ok_or("not user:hash")?;
        check_user(user)?;
        let stored = if stored.starts_with("$argon2") {
            Argon2Hash::parse(stored).map(Stored::Argon2)
        } else if stored.starts_with(scram::METHOD) {
            stored.parse().map(Stored::Scram)
        } else {
            Err("hash is neither argon2id nor SCRAM-SHA-256; make one with \"ratatosk passwd\"")
        };
        let stored = stored.map_err(|why| format!("user {user:?}: {why}"))?;
        Ok(Some(Self { user, stored }))
    }
}

/// Whether a name can stand in a password file.
pub(crate) fn check_user(user: &str) -> Result<(), String> {
    if user.is_empty() {
        return Err("user name is empty".to_owned());
    }
    if user.len() > USER_BYTES_MAX {
        return Err(format!("user name is longer than {USER_BYTES_MAX} bytes"));
    }
    let is_plain = !user.contains(':')
        && !user.starts_with('#')
        && user.trim() == user
        && !user.chars().any(char::is_control);
    if !is_plain {
        return Err(format!(
            "user name {user:?} has a colon, a control character, a leading # or blanks around it"
        ));
    }
    Ok(())
}

/// An argon2id hash.
#[derive(Clone)]
pub(crate) struct Argon2Hash {
    params: Params,
    salt: Vec<u8>,
    hash: Secret,
}

impl std::fmt::Debug for Argon2Hash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "argon2id hash of {} KiB", self.params.m_cost())
    }
}

impl Argon2Hash {
    fn parse(text: &str) -> Result<Self, &'static str> {
        let parsed = PasswordHash::new(text).map_err(|_| "argon2 hash is malformed")?;
        if parsed.algorithm.as_str() != Algorithm::Argon2id.as_str() {
            return Err("only argon2id is supported of the argon2 family");
        }
        if parsed.version != Some(Version::V0x13.into()) {
            return Err("argon2 hash is not of version 19");
        }
        let params = Params::try_from(&parsed).map_err(|_| "argon2 parameters are malformed")?;
        let is_bounded = params.m_cost() <= MEMORY_KIB_MAX
            && params.t_cost() <= PASSES_MAX
            && params.p_cost() <= LANES_MAX;
        if !is_bounded {
            return Err("argon2 cost is beyond 1 GiB, 64 passes or 16 lanes");
        }
        let (Some(salt), Some(hash)) = (parsed.salt, parsed.hash) else {
            return Err("argon2 hash lacks its salt or its hash");
        };
        if hash.len() < HASH_BYTES_MIN {
            return Err("argon2 hash is shorter than 16 bytes");
        }
        Ok(Self { params, salt: salt.to_vec(), hash: Secret::from(hash.as_bytes()) })
    }

    /// Whether this is the password. Takes some 10 ms and the memory that the hash asks for.
    pub(crate) fn is_of(&self, password: &Secret) -> bool {
        let mut hash = vec![0; self.hash.expose().len()];
        let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, self.params.clone());
        // The parameters were checked; what fails all the same is no match.
        argon2.hash_password_into(password.expose(), &self.salt, &mut hash).is_ok()
            && equal_in_constant_time(&hash, self.hash.expose())
    }

    /// A hash to compare with where there is none: as costly as a real one. Whoever uses it
    /// ignores the result.
    pub(crate) fn of_nothing(params: Params) -> Self {
        let bytes = params.output_len().unwrap_or(Params::DEFAULT_OUTPUT_LEN);
        Self { params, salt: vec![0; 16], hash: Secret::new(vec![0; bytes]) }
    }
}

#[cfg(test)]
#[path = "password_file_test.rs"]
mod tests;
