//! Editing a password file: what `ratatosk passwd` does.
//!
//! The file is replaced as a whole: written beside itself, flushed to disk, renamed. A crash
//! leaves the old or the new one. A new file is readable by its owner only; an existing one keeps
//! its mode and owner. Comments, order and the other users stay as they are. Two edits at the same
//! time are the operator's matter: the later one wins.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use argon2::{Algorithm, Argon2, Params, PasswordHasher, Version};

use crate::file::{self, FileError, LineError};
use crate::password_file::{Line, Stored, Users, check_user};
use crate::scram;
use crate::secret::Secret;

/// What is stored of a password.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Schemes {
    /// argon2id, for a password in CONNECT.
    #[default]
    Argon2,
    /// SCRAM-SHA-256, for enhanced authentication.
    Scram,
    /// Both.
    Both,
}

/// How costly new hashes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Costs {
    /// argon2id: memory.
    pub memory_kib: u32,
    /// argon2id: passes over it.
    pub passes: u32,
    /// SCRAM: iterations that each client must compute.
    pub iterations: u32,
}

impl Default for Costs {
    fn default() -> Self {
        Self {
            memory_kib: Params::DEFAULT_M_COST,
            passes: Params::DEFAULT_T_COST,
            iterations: scram::ITERATIONS_DEFAULT,
        }
    }
}

/// What an edit did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Edit {
    /// The user is new.
    Created,
    /// The user had a password before.
    Updated,
    /// The user is gone.
    Removed,
    /// There was no such user; the file was not touched.
    Unchanged,
}

/// An edit that was not made; the file is as it was.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read, understood or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// The user name or the password cannot be used.
    #[error("{0}")]
    Unusable(String),
    /// The password could not be hashed.
    #[error("password cannot be hashed: {0}")]
    Hash(String),
}

/// Sets the password of a user, who may be new, as may be the file. Every line that the user had
/// is replaced.
pub fn set(path: &Path, user: &str, password: &Secret, schemes: Schemes) -> Result<Edit, Error> {
    set_with(path, user, password, schemes, Costs::default())
}

/// Sets a password at other costs than the defaults.
pub fn set_with(
    path: &Path,
    user: &str,
    password: &Secret,
    schemes: Schemes,
    costs: Costs,
) -> Result<Edit, Error> {
    check_user(user).map_err(Error::Unusable)?;
    check_password(password)?;
    let text = existing(path)?;
    let (mut lines, had) = without(&text, user);
    // Where the user stood; at the end if it is new.
    let mut at = had.unwrap_or(lines.len());
    let mut insert = |stored: &str| {
        lines.insert(at, format!("{user}:{stored}"));
        at += 1;
    };
    if schemes != Schemes::Scram {
        insert(&argon2_line(password, costs)?);
    }
    if schemes != Schemes::Argon2 {
        let keys = scram::Keys::derive(password, &random::<16>()?, costs.iterations);
        insert(&keys.to_line());
    }
    replace(path, &lines)?;
    Ok(if had.is_some() { Edit::Updated } else { Edit::Created })
}

/// Removes a user.
pub fn remove(path: &Path, user: &str) -> Result<Edit, Error> {
    let text = existing(path)?;
    let (lines, had) = without(&text, user);
    if had.is_none() {
        return Ok(Edit::Unchanged);
    }
    replace(path, &lines)?;
    Ok(Edit::Removed)
}

/// The users of a file in the order of their first line, and what is stored of each.
pub fn list(path: &Path) -> Result<Vec<(String, Schemes)>, Error> {
    let text = file::read(path)?;
    let users = checked(path, &text)?;
    let mut listed: Vec<(String, Schemes)> = Vec::new();
    for line in text.lines().filter_map(|line| Line::parse(line).ok().flatten()) {
        let is_listed = listed.iter().any(|(user, _)| user == line.user);
        let has_both =
            users.entry(line.user).is_some_and(|e| e.argon2.is_some() && e.scram.is_some());
        let schemes = match line.stored {
            _ if has_both => Schemes::Both,
            Stored::Argon2(_) => Schemes::Argon2,
            Stored::Scram(_) => Schemes::Scram,
        };
        if !is_listed {
            listed.push((line.user.to_owned(), schemes));
        }
    }
    Ok(listed)
}

fn check_password(password: &Secret) -> Result<(), Error> {
    // MQTT carries a password of 65535 bytes at most; an empty one is nobody's intention.
    let length = password.expose().len();
    if length == 0 || length > usize::from(u16::MAX) {
        return Err(Error::Unusable(format!("password of {length} bytes: not in 1 to 65535")));
    }
    Ok(())
}

/// The text of the file, checked; empty if there is none.
fn existing(path: &Path) -> Result<String, Error> {
    match file::read(path) {
        Ok(text) => checked(path, &text).map(|_| text),
        Err(FileError::Io { source, .. }) if source.kind() == ErrorKind::NotFound => {
            Ok(String::new())
        }
        Err(error) => Err(error.into()),
    }
}

fn checked(path: &Path, text: &str) -> Result<Users, Error> {
    Users::parse(text).map_err(|error: LineError| FileError::line(path, error).into())
}

/// The lines without those of a user, and where its first one stood.
fn without(text: &str, user: &str) -> (Vec<String>, Option<usize>) {
    let is_users = |line: &str| Line::parse(line).ok().flatten().is_some_and(|l| l.user == user);
    let at = text.lines().position(is_users);
    (text.lines().filter(|line| !is_users(line)).map(str::to_owned).collect(), at)
}

fn argon2_line(password: &Secret, costs: Costs) -> Result<String, Error> {
    let fail = |error: &dyn std::fmt::Display| Error::Hash(error.to_string());
    let params = Params::new(costs.memory_kib, costs.passes, 1, None).map_err(|e| fail(&e))?;
    let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
    let hash = argon2
        .hash_password_with_salt(password.expose(), &random::<16>()?)
        .map_err(|e| fail(&e))?;
    Ok(hash.to_string())
}

fn random<const N: usize>() -> Result<[u8; N], Error> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|error| Error::Hash(error.to_string()))?;
    Ok(bytes)
}

fn replace(path: &Path, lines: &[String]) -> Result<(), Error> {
    // A link is followed, so that its target is replaced and not the link.
    let target = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let mut text: String = lines.join("\n");
    if !text.is_empty() {
        text.push('\n');
    }
    let suffix: String = random::<8>()?.iter().map(|byte| format!("{byte:02x}")).collect();
    let mut name = target.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{suffix}.tmp"));
    let beside = target.with_file_name(name);
    let written = write_beside(&target, &beside, text.as_bytes());
    if written.is_err() {
        // The error that counts is the first one.
        let _ = fs::remove_file(&beside);
    }
    written.map_err(|error| FileError::io(path, error).into())
}

fn write_beside(target: &Path, beside: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(beside)?;
    if let Ok(before) = fs::metadata(target) {
        let own = file.metadata()?;
        if (own.uid(), own.gid()) != (before.uid(), before.gid()) {
            std::os::unix::fs::chown(beside, Some(before.uid()), Some(before.gid()))?;
        }
        file.set_permissions(Permissions::from_mode(before.mode() & 0o777))?;
    }
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(beside, target)?;
    // The new name survives a crash once its directory is on disk.
    let parent = target.parent().filter(|parent| !parent.as_os_str().is_empty());
    File::open(parent.map_or_else(|| PathBuf::from("."), Path::to_owned))?.sync_all()
}

#[cfg(test)]
#[path = "passwd_test.rs"]
mod tests;
