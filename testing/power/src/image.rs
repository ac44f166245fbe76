//! A folder and all that is in it, in memory.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Image {
    /// By name relative to the folder; what a file has, or nothing for a folder, which comes
    /// before what is in it.
    pub entries: BTreeMap<String, Option<Vec<u8>>>,
}

impl Image {
    /// What a folder has.
    ///
    /// # Errors
    /// The system's; a name that is no UTF-8, or neither a file nor a folder.
    pub fn read(folder: &Path) -> io::Result<Image> {
        let mut image = Image::default();
        image.read_below(folder, "")?;
        Ok(image)
    }

    fn read_below(&mut self, folder: &Path, prefix: &str) -> io::Result<()> {
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            let name = entry.file_name().into_string();
            let name = name.map_err(|name| io::Error::other(format!("{name:?} is no UTF-8")))?;
            let name = format!("{prefix}{name}");
            let kind = entry.file_type()?;
            if kind.is_dir() {
                self.entries.insert(name.clone(), None);
                self.read_below(&entry.path(), &format!("{name}/"))?;
            } else if kind.is_file() {
                self.entries.insert(name, Some(fs::read(entry.path())?));
            } else {
                return Err(io::Error::other(format!("{name} is neither file nor folder")));
            }
        }
        Ok(())
    }

    /// Makes a folder have this and nothing else.
    ///
    /// # Errors
    /// The system's. What the folder has then is something in between.
    pub fn write(&self, folder: &Path) -> io::Result<()> {
        if folder.exists() {
            fs::remove_dir_all(folder)?;
        }
        fs::create_dir_all(folder)?;
        for (name, content) in &self.entries {
            let path = folder.join(name);
            let Some(bytes) = content else {
                fs::create_dir(path)?;
                continue;
            };
            // Much of a log's file is room that nothing was written to.
            let used = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
            let mut file = File::create(path)?;
            file.write_all(&bytes[..used])?;
            file.set_len(bytes.len() as u64)?;
        }
        Ok(())
    }

    /// In what two differ, for people; nothing if they are the same.
    #[must_use]
    pub fn differences(&self, other: &Image) -> Vec<String> {
        let mut found = Vec::new();
        for (name, content) in &self.entries {
            match other.entries.get(name) {
                None => found.push(format!("{name}: only in the first")),
                Some(held) if held != content => found.push(difference(name, content, held)),
                Some(_) => {}
            }
        }
        let is_new = |name: &&String| !self.entries.contains_key(*name);
        let added = other.entries.keys().filter(is_new);
        found.extend(added.map(|name| format!("{name}: only in the second")));
        found
    }
}

fn difference(name: &str, one: &Option<Vec<u8>>, two: &Option<Vec<u8>>) -> String {
    let (Some(one), Some(two)) = (one, two) else {
        return format!("{name}: one is a file and one a folder");
    };
    let place = one.iter().zip(two).position(|(left, right)| left != right);
    let place = place.unwrap_or_else(|| one.len().min(two.len()));
    format!("{name}: {} and {} bytes, different from byte {place} on", one.len(), two.len())
}
