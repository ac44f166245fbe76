//! An error and its causes as one line for people.

/// Joins the causes. Some messages name their cause themselves: it is not told twice.
pub(crate) fn line(error: &anyhow::Error) -> String {
    let mut line = error.to_string();
    for cause in error.chain().skip(1) {
        let cause = cause.to_string();
        if !line.contains(&cause) {
            line.push_str(": ");
            line.push_str(&cause);
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use anyhow::Context as _;

    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot listen: {source}; stop the other one")]
    struct Naming {
        source: std::io::Error,
    }

    #[test]
    fn each_cause_is_told_once() {
        let naming = Naming { source: std::io::Error::other("port in use") };
        let error = Err::<(), _>(naming).context("no broker").unwrap_err();
        assert_eq!(line(&error), "no broker: cannot listen: port in use; stop the other one");
        let error = Err::<(), _>(std::io::Error::other("disk full")).context("no data");
        assert_eq!(line(&error.unwrap_err()), "no data: disk full");
    }
}
