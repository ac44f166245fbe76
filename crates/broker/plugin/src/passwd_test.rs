//! Editing a password file: what stays, what changes, what a failure leaves.

use super::*;
use crate::testing::TempDir;

const CHEAP: Costs = Costs { memory_kib: 64, passes: 1, iterations: 4_096 };

fn set_cheap(path: &Path, user: &str, password: &str, schemes: Schemes) -> Result<Edit, Error> {
    set_with(path, user, &Secret::from(password), schemes, CHEAP)
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

fn is_password(path: &Path, user: &str, password: &str) -> bool {
    let users = Users::parse(&fs::read_to_string(path).unwrap()).unwrap();
    users
        .entry(user)
        .and_then(|entry| entry.argon2.as_ref())
        .is_some_and(|hash| hash.is_of(&Secret::from(password)))
}

fn entries(dir: &TempDir) -> usize {
    fs::read_dir(dir.path()).unwrap().count()
}

#[test]
fn a_new_file_is_for_its_owner_only() {
    let dir = TempDir::new();
    let path = dir.path().join("passwd");
    assert_eq!(set_cheap(&path, "alice", "secret", Schemes::Argon2).unwrap(), Edit::Created);
    assert_eq!(mode(&path), 0o600);
    assert!(is_password(&path, "alice", "secret"));
    assert_eq!(entries(&dir), 1, "nothing is left beside it");
}

#[test]
fn edits_leave_everything_else_as_it_was() {
    let dir = TempDir::new();
    let path = dir.file("passwd", "# ours\n\n");
    set_cheap(&path, "alice", "a", Schemes::Both).unwrap();
    set_cheap(&path, "bob", "b", Schemes::Argon2).unwrap();
    fs::write(&path, fs::read_to_string(&path).unwrap() + "# end\n").unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
    let before = fs::read_to_string(&path).unwrap();

    assert_eq!(set_cheap(&path, "alice", "new", Schemes::Argon2).unwrap(), Edit::Updated);
    let after = fs::read_to_string(&path).unwrap();
    assert!(is_password(&path, "alice", "new") && is_password(&path, "bob", "b"));
    let others = |text: &str| -> Vec<String> {
        text.lines().filter(|line| !line.starts_with("alice:")).map(str::to_owned).collect()
    };
    assert_eq!(others(&before), others(&after));
    assert_eq!(after.lines().position(|line| line.starts_with("alice:")), Some(2));
    assert_eq!(mode(&path), 0o640);

    assert_eq!(remove(&path, "alice").unwrap(), Edit::Removed);
    assert_eq!(remove(&path, "alice").unwrap(), Edit::Unchanged);
    assert_eq!(others(&fs::read_to_string(&path).unwrap()), others(&before));
    assert_eq!(entries(&dir), 1);
}

#[test]
fn users_are_listed_with_their_schemes() {
    let dir = TempDir::new();
    let path = dir.path().join("passwd");
    set_cheap(&path, "carol", "c", Schemes::Scram).unwrap();
    set_cheap(&path, "alice", "a", Schemes::Both).unwrap();
    set_cheap(&path, "bob", "b", Schemes::Argon2).unwrap();
    let expected = [("carol", Schemes::Scram), ("alice", Schemes::Both), ("bob", Schemes::Argon2)];
    assert_eq!(list(&path).unwrap(), expected.map(|(user, schemes)| (user.to_owned(), schemes)));
}

#[test]
fn the_same_password_is_never_stored_the_same() {
    let dir = TempDir::new();
    let path = dir.path().join("passwd");
    set_cheap(&path, "alice", "same", Schemes::Both).unwrap();
    set_cheap(&path, "bob", "same", Schemes::Both).unwrap();
    let text = fs::read_to_string(&path).unwrap();
    let stored: std::collections::HashSet<_> =
        text.lines().map(|line| line.split_once(':').unwrap().1).collect();
    assert_eq!(stored.len(), 4);
    assert!(!text.contains("same"));
}

#[test]
fn what_cannot_be_used_is_refused_and_nothing_written() {
    let dir = TempDir::new();
    let path = dir.path().join("passwd");
    for user in ["", "a:b", "#a", " a", "a\n"] {
        let error = set_cheap(&path, user, "secret", Schemes::Argon2).unwrap_err();
        assert!(matches!(error, Error::Unusable(_)), "{user:?}: {error}");
        assert!(!error.to_string().contains("secret"));
    }
    for password in [String::new(), "x".repeat(65_536)] {
        let error = set_cheap(&path, "alice", &password, Schemes::Argon2).unwrap_err();
        assert!(matches!(error, Error::Unusable(_)));
    }
    assert_eq!(entries(&dir), 0);
}

#[test]
fn a_file_that_is_not_understood_is_not_overwritten() {
    let dir = TempDir::new();
    let path = dir.file("passwd", "alice:plain\n");
    let error = set_cheap(&path, "bob", "secret", Schemes::Argon2).unwrap_err();
    assert!(error.to_string().starts_with(&format!("{}:1: ", path.display())), "{error}");
    assert_eq!(fs::read_to_string(&path).unwrap(), "alice:plain\n");
    assert!(remove(&path, "alice").is_err());
    assert_eq!(entries(&dir), 1);
}

#[test]
fn a_link_stays_a_link() {
    let dir = TempDir::new();
    let real = dir.file("real", "");
    let link = dir.path().join("link");
    std::os::unix::fs::symlink(&real, &link).unwrap();
    set_cheap(&link, "alice", "secret", Schemes::Argon2).unwrap();
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    assert!(is_password(&real, "alice", "secret"));
}

#[test]
fn a_failed_write_leaves_the_file_and_no_rest() {
    let dir = TempDir::new();
    let path = dir.path().join("no-such-directory").join("passwd");
    assert!(matches!(
        set_cheap(&path, "alice", "secret", Schemes::Argon2),
        Err(Error::File(FileError::Io { .. }))
    ));
    assert_eq!(entries(&dir), 0);
}
