//! The folder of a broker under test: its certificates, and the files that a test puts there.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use ratatosk_testkit::binary;
use ratatosk_testkit::scratch::Scratch;
use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, Issuer, KeyPair, KeyUsagePurpose};

use crate::process::{Outcome, run_to_end};

const COMMAND_MAX: Duration = Duration::from_secs(60);

/// A folder with an authority and a server certificate by it for the loopback.
#[derive(Debug)]
pub struct Place {
    folder: Scratch,
    /// Certificates that were issued by it.
    issuer: Issuer<'static, KeyPair>,
}

impl Place {
    /// Makes a folder that no other test has: `authority.pem`, `server.pem`, `server.key`.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn new() -> Result<Place> {
        let folder = Scratch::new("e2e");
        let issuer = new_authority(&folder.path().join("authority.pem"))?;
        let place = Place { folder, issuer };
        place.issue_server(&place.issuer)?;
        Ok(place)
    }

    /// The path of a file in it.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder().join(name)
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Writes a file.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write(&self, name: &str, text: &str) -> Result<()> {
        let path = self.path(name);
        std::fs::write(&path, text).with_context(|| format!("writing {}", path.display()))
    }

    /// Replaces the server's certificate and key by those of a new authority, whose certificate
    /// goes to the file `authority`.
    ///
    /// # Errors
    /// If a file cannot be written.
    pub fn replace_server_certificate(&self, authority: &str) -> Result<()> {
        self.issue_server(&new_authority(&self.path(authority))?)
    }

    /// Issues a certificate to a client: `NAME.pem` and `NAME.key`.
    ///
    /// # Errors
    /// If a file cannot be written.
    pub fn issue_client(&self, name: &str) -> Result<()> {
        let key = KeyPair::generate()?;
        let mut client = CertificateParams::new(Vec::new())?;
        client.distinguished_name.push(DnType::CommonName, name);
        client.use_authority_key_identifier_extension = true;
        client.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = client.signed_by(&key, &self.issuer)?;
        self.write(&format!("{name}.pem"), &certificate.pem())?;
        self.write(&format!("{name}.key"), &key.serialize_pem())
    }

    fn issue_server(&self, issuer: &Issuer<'static, KeyPair>) -> Result<()> {
        let key = KeyPair::generate()?;
        let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
        let mut server = CertificateParams::new(names)?;
        server.use_authority_key_identifier_extension = true;
        server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let certificate = server.signed_by(&key, issuer)?;
        self.write("server.pem", &certificate.pem())?;
        self.write("server.key", &key.serialize_pem())
    }

    /// Runs a command of the binary in this folder, with text as its standard input.
    ///
    /// # Errors
    /// If it cannot be started, or does not end within a minute.
    pub fn ratatosk(&self, arguments: &[&str], input: &str) -> Result<Outcome> {
        let mut command = binary::ratatosk()?;
        command.args(arguments);
        self.run(command, input)
    }

    /// Runs any command in this folder.
    ///
    /// # Errors
    /// As [`Place::ratatosk`].
    pub fn run(&self, mut command: Command, input: &str) -> Result<Outcome> {
        let input_file = self.fresh_file("input");
        std::fs::write(&input_file, input)?;
        command.current_dir(self.folder());
        run_to_end(command, &input_file, &self.fresh_file("command"), COMMAND_MAX)
    }

    /// A file name that was not given before.
    pub(crate) fn fresh_file(&self, name: &str) -> PathBuf {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        self.path(&format!("{name}-{}.log", NEXT.fetch_add(1, Ordering::Relaxed)))
    }
}

fn new_authority(certificate_file: &Path) -> Result<Issuer<'static, KeyPair>> {
    let key = KeyPair::generate()?;
    let mut authority = CertificateParams::new(Vec::new())?;
    authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    authority.distinguished_name.push(DnType::CommonName, "ratatosk e2e");
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let certificate = authority.self_signed(&key)?;
    std::fs::write(certificate_file, certificate.pem())
        .with_context(|| format!("writing {}", certificate_file.display()))?;
    Ok(Issuer::new(authority, key))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificates_and_keys_are_written_and_replaced() {
        let place = Place::new().expect("makes");
        place.issue_client("bob").expect("issues");
        let read = |name: &str| std::fs::read_to_string(place.path(name)).expect("reads");
        for name in ["authority.pem", "server.pem", "server.key", "bob.pem", "bob.key"] {
            assert!(read(name).starts_with("-----BEGIN "), "{name}");
        }
        let before = (read("server.pem"), read("server.key"), read("authority.pem"));
        place.replace_server_certificate("other.pem").expect("replaces");
        assert_ne!(before.0, read("server.pem"));
        assert_ne!(before.1, read("server.key"));
        assert_eq!(before.2, read("authority.pem"));
        assert_ne!(before.2, read("other.pem"));
    }
}
