// SPDX-License-Identifier: GPL-2.0

//! Plain text for people: tables.

use std::fmt;

/// A table whose columns are as wide as what is in them, numbers to the right.
#[derive(Clone, Debug, Default)]
pub struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these column names.
    #[must_use]
    pub fn new(columns: &[&str]) -> Self {
        let header = columns.iter().map(|name| (*name).to_owned()).collect();
        Self { rows: vec![header] }
    }

    /// Adds a row.
    pub fn push(&mut self, row: Vec<String>) {
        self.rows.push(row);
    }

    fn width(&self, column: usize) -> usize {
        let widths = self.rows.iter().filter_map(|row| row.get(column));
        widths.map(|cell| cell.chars().count()).max().unwrap_or(0)
    }

    /// Whether the column has numbers below its name, and besides them only dashes.
    fn is_numeric(&self, column: usize) -> bool {
        let is_number = |cell: &String| cell.parse::<f64>().is_ok();
        let mut cells = self.rows.iter().skip(1).filter_map(|row| row.get(column));
        cells.clone().any(is_number) && cells.all(|cell| cell == "-" || is_number(cell))
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns = self.rows.first().map_or(0, Vec::len);
        let layout: Vec<_> = (0..columns)
            .map(|column| (self.width(column), self.is_numeric(column)))
            .collect();
        for row in &self.rows {
            let mut line = String::new();
            for (cell, (width, is_numeric)) in row.iter().zip(&layout) {
                let cell = if *is_numeric {
                    format!("{cell:>width$}  ")
                } else {
                    format!("{cell:<width$}  ")
                };
                line.push_str(&cell);
            }
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::Table;

    #[test]
    fn numbers_stand_to_the_right_and_words_to_the_left() {
        let mut table = Table::new(&["cpu", "now"]);
        table.push(vec!["1".into(), "user".into()]);
        table.push(vec!["12".into(), "idle".into()]);
        assert_eq!(table.to_string(), "cpu  now\n  1  user\n 12  idle\n");
        let mut table = Table::new(&["owed", "count"]);
        table.push(vec!["-".into(), "-".into()]);
        table.push(vec!["-".into(), "5".into()]);
        assert_eq!(table.to_string(), "owed  count\n-         -\n-         5\n");
    }
}
