//! Text in aligned columns.

/// Rows below a head, in columns that are as wide as they have to be, two spaces apart.
pub(crate) fn render<const N: usize>(head: [&str; N], rows: &[[String; N]]) -> String {
    let mut widths = head.map(width);
    for row in rows {
        for (widest, cell) in widths.iter_mut().zip(row) {
            *widest = (*widest).max(width(cell));
        }
    }
    let mut text = line(&head, &widths);
    for row in rows {
        text.push_str(&line(&row.each_ref().map(String::as_str), &widths));
    }
    text
}

fn line(cells: &[&str], widths: &[usize]) -> String {
    let mut line = String::new();
    for (cell, width_max) in cells.iter().zip(widths) {
        let cell = if cell.is_empty() { "-" } else { *cell };
        line.push_str(cell);
        let gap = width_max.saturating_sub(width(cell)) + 2;
        line.extend(std::iter::repeat_n(' ', gap));
    }
    let mut line = line.trim_end().to_owned();
    line.push('\n');
    line
}

fn width(cell: &str) -> usize {
    cell.chars().count().max(1)
}

/// Bytes as people read them.
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    let mut shown = (format!("{bytes} B"), 1024);
    for unit in UNITS {
        if bytes < shown.1 {
            break;
        }
        let tenths = bytes.saturating_mul(10) / shown.1;
        shown = (format!("{}.{} {unit}", tenths / 10, tenths % 10), shown.1 << 10);
    }
    shown.0
}

/// How many digits of numbers are enough to tell them apart; at least four.
pub(crate) fn digits<'a>(numbers: impl IntoIterator<Item = &'a str>) -> usize {
    let mut numbers: Vec<&str> = numbers.into_iter().collect();
    numbers.sort_unstable();
    numbers.dedup();
    let common = |one: &str, other: &str| {
        one.bytes().zip(other.bytes()).take_while(|(one, other)| one == other).count()
    };
    numbers.windows(2).map(|pair| common(pair[0], pair[1]) + 1).max().unwrap_or(0).max(4)
}

/// The first digits of a number.
pub(crate) fn short(number: &str, digits: usize) -> &str {
    number.get(..digits).unwrap_or(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_what_is_empty_is_a_dash() {
        let rows = [["a", "", "1"], ["long one", "x", ""]].map(|row| row.map(str::to_owned));
        let expected = "NAME      B  COUNT\na         -  1\nlong one  x  -\n";
        assert_eq!(render(["NAME", "B", "COUNT"], &rows), expected);
        assert_eq!(render(["NAME"], &[]), "NAME\n");
    }

    #[test]
    fn sizes_are_short() {
        let check = |bytes, expected: &str| assert_eq!(size(bytes), expected);
        check(0, "0 B");
        check(1023, "1023 B");
        check(1024, "1.0 KiB");
        check(1_587_000, "1.5 MiB");
        check(u64::MAX, "1677721.5 TiB");
    }

    #[test]
    fn numbers_are_cut_as_far_as_they_stay_apart() {
        assert_eq!(digits(["0011", "0022"]), 4);
        assert_eq!(digits(["00112233", "00112244", "ff"]), 7);
        assert_eq!(digits(["same", "same"]), 4);
        assert_eq!(digits([]), 4);
        assert_eq!((short("00112233", 4), short("ab", 4)), ("0011", "ab"));
    }
}
