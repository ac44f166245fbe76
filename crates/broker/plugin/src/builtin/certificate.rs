//! The identity in a client certificate: the common name of its subject is the user.
//!
//! TLS has verified chain and possession of the key before; here the name is only read. A
//! certificate wins over a user name in CONNECT.

use x509_parser::prelude::{FromDer, X509Certificate};

use super::Tenancy;
use crate::answer::Answer;
use crate::auth::{AuthProvider, AuthRequest, AuthResult, DenialReason};
use crate::plugin::Plugin;

/// Longest common name that X.509 allows, in characters.
const NAME_CHARS_MAX: usize = 64;

/// Lets in who shows a verified certificate.
#[derive(Debug, Clone)]
pub struct CertificateIdentity {
    tenancy: Tenancy,
}

impl CertificateIdentity {
    /// The tenant follows from the common name by `tenancy`.
    pub fn new(tenancy: Tenancy) -> Self {
        Self { tenancy }
    }
}

impl Plugin for CertificateIdentity {
    fn name(&self) -> &str {
        "certificate"
    }
}

impl AuthProvider for CertificateIdentity {
    fn authenticate(&self, request: AuthRequest) -> Answer<AuthResult> {
        let Some(der) = &request.certificate else {
            return Answer::Now(AuthResult::Abstained);
        };
        Answer::Now(match common_name(der) {
            Ok(name) => AuthResult::Granted(self.tenancy.grant(&name)),
            Err(why) => AuthResult::denied(DenialReason::NotAuthorized, why),
        })
    }
}

fn common_name(der: &[u8]) -> Result<String, &'static str> {
    let (_, certificate) =
        X509Certificate::from_der(der).map_err(|_| "client certificate is not X.509")?;
    let mut names = certificate.subject().iter_common_name();
    let (name, more) = (names.next(), names.next());
    if more.is_some() {
        return Err("client certificate has more than one common name");
    }
    let name = name
        .and_then(|name| name.as_str().ok())
        .ok_or("client certificate has no common name in text")?;
    let is_plain = !name.is_empty()
        && name.chars().count() <= NAME_CHARS_MAX
        && !name.chars().any(char::is_control);
    is_plain.then(|| name.to_owned()).ok_or("client certificate has an unusable common name")
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};

    use super::*;
    use crate::testing::{request, resolve};

    fn certificate(common_name: Option<&str>) -> Vec<u8> {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, "acme");
        if let Some(name) = common_name {
            params.distinguished_name.push(DnType::CommonName, name);
        }
        let key = KeyPair::generate().unwrap();
        params.self_signed(&key).unwrap().der().to_vec()
    }

    fn ask(certificate: Option<Vec<u8>>) -> AuthResult {
        let provider = CertificateIdentity::new(Tenancy::Single("main".to_owned()));
        let request = AuthRequest {
            certificate: certificate.map(Into::into),
            username: Some("mallory".into()),
            ..request("c")
        };
        resolve(provider.authenticate(request))
    }

    fn is_refused(result: &AuthResult) -> bool {
        matches!(result, AuthResult::Denied(denial) if denial.reason == DenialReason::NotAuthorized)
    }

    /// SEC-002: the certificate that TLS verified is the client's identity.
    #[test]
    fn the_common_name_is_the_user() {
        let result = ask(Some(certificate(Some("sensor-1"))));
        let AuthResult::Granted(grant) = result else { panic!("{result:?}") };
        assert_eq!((grant.tenant.as_str(), grant.user.as_str()), ("main", "sensor-1"));
    }

    #[test]
    fn a_certificate_without_a_usable_name_is_refused() {
        assert!(is_refused(&ask(Some(certificate(None)))));
        assert!(is_refused(&ask(Some(certificate(Some(""))))));
        assert!(is_refused(&ask(Some(certificate(Some("a\nb"))))));
        assert!(is_refused(&ask(Some(certificate(Some(&"x".repeat(65)))))));
        let mut broken = certificate(Some("sensor-1"));
        broken.truncate(40);
        assert!(is_refused(&ask(Some(broken))));
    }

    #[test]
    fn without_a_certificate_others_are_asked() {
        assert_eq!(ask(None), AuthResult::Abstained);
    }
}
