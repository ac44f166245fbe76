//! How large a name or filter may be. The tenant decides; the wire allows 65,535 bytes at most.

use crate::TopicError;

/// The sizes that a tenant allows. The default is that of a new tenant.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub struct TopicLimits {
    /// Bytes of a name, or of a filter without its share prefix.
    pub length_max: u16,
    /// Levels of a name, or of a filter without its share prefix.
    pub levels_max: u16,
    /// Bytes of one level, and of the group of a shared subscription.
    pub level_length_max: u16,
}

impl Default for TopicLimits {
    fn default() -> Self {
        Self { length_max: u16::MAX, levels_max: 128, level_length_max: u16::MAX }
    }
}

impl TopicLimits {
    /// What the protocol allows, for texts that were checked against a tenant's limits before: a
    /// stored topic stays readable when the tenant's limits shrink. (Only 65,535 slashes in a row,
    /// which are 65,536 levels, fall through.)
    pub const PROTOCOL: Self =
        Self { length_max: u16::MAX, levels_max: u16::MAX, level_length_max: u16::MAX };

    /// Checks the size of `text`, a name or a filter without share prefix.
    pub(crate) fn check(&self, text: &str) -> Result<(), TopicError> {
        if text.is_empty() {
            return Err(TopicError::Empty);
        }
        if text.len() > usize::from(self.length_max) {
            return Err(TopicError::TooLong { length: text.len(), max: self.length_max });
        }
        let levels = 1 + text.bytes().filter(|byte| *byte == b'/').count();
        if levels > usize::from(self.levels_max) {
            return Err(TopicError::TooManyLevels { levels, max: self.levels_max });
        }
        // The whole is the upper bound of its levels: the default limit costs no second pass.
        if text.len() > usize::from(self.level_length_max) {
            for (index, level) in text.split('/').enumerate() {
                self.check_level(index, level)?;
            }
        }
        Ok(())
    }

    pub(crate) fn check_level(&self, level: usize, text: &str) -> Result<(), TopicError> {
        let (length, max) = (text.len(), self.level_length_max);
        if length > usize::from(max) {
            return Err(TopicError::LevelTooLong { level, length, max });
        }
        Ok(())
    }
}
