//! What a datagram and a connection begin with, in the clear: a mark, a version, which key seals what follows,
//! and whose it is.

use super::envelope::EnvironmentTag;
use super::identity::ClusterId;
use super::key::KeyId;
use super::refusal::Refusal;
use super::wire::Reader;

const VERSION: u8 = 1;
const SEALED: u8 = 1;

/// See the module; the mark is that of the kind.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) struct Front {
    /// The key that seals what follows, if one does.
    pub(crate) key: Option<KeyId>,
    pub(crate) environment: EnvironmentTag,
    pub(crate) cluster: Option<ClusterId>,
}

impl Front {
    pub(crate) fn encode(&self, mark: [u8; 2], out: &mut Vec<u8>) {
        out.extend_from_slice(&mark);
        out.push(VERSION);
        out.push(if self.key.is_some() { SEALED } else { 0 });
        out.extend_from_slice(&self.key.unwrap_or_default());
        out.extend_from_slice(&self.environment);
        out.extend_from_slice(&self.cluster.map_or(0, ClusterId::number).to_be_bytes());
    }

    pub(crate) fn decode(mark: [u8; 2], reader: &mut Reader<'_>) -> Result<Front, Refusal> {
        let malformed = |_| Refusal::Malformed;
        if reader.array().ok() != Some(mark) {
            return Err(Refusal::Magic);
        }
        if reader.u8().map_err(malformed)? != VERSION {
            return Err(Refusal::Version);
        }
        let flags = reader.u8().map_err(malformed)?;
        let key = reader.array().map_err(malformed)?;
        let key = match flags {
            0 if key == KeyId::default() => None,
            SEALED => Some(key),
            _ => return Err(Refusal::Malformed),
        };
        let environment = reader.array().map_err(malformed)?;
        let cluster = ClusterId::from_number(reader.u64().map_err(malformed)?);
        Ok(Front { key, environment, cluster })
    }
}
