//! Topic names and filters: validation, matching, the filter index and the topic scan.
