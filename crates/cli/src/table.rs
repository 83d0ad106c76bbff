//! The tables that commands print.

use anstyle::Style;

use crate::out::HEAD;

/// A table whose columns are as wide as their widest cell.
#[derive(Clone, Debug, Default)]
pub struct Table {
    heads: Vec<(&'static str, Align)>,
    rows: Vec<Vec<Cell>>,
}

/// The alignment of a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Align {
    /// Alignment to the left, for texts.
    Left,
    /// Alignment to the right, for numbers.
    Right,
}

/// A cell of a table.
#[derive(Clone, Debug, Default)]
pub struct Cell {
    text: String,
    style: Style,
}

impl Cell {
    /// Creates a cell with a style.
    #[must_use]
    pub fn styled(text: impl Into<String>, style: Style) -> Self {
        Self { text: text.into(), style }
    }
}

impl<T: Into<String>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self { text: text.into(), style: Style::new() }
    }
}

impl Table {
    /// Creates an empty table with these columns.
    #[must_use]
    pub fn new(heads: &[(&'static str, Align)]) -> Self {
        Self { heads: heads.to_vec(), rows: Vec::new() }
    }

    /// Adds a row.
    pub fn row(&mut self, cells: impl IntoIterator<Item = Cell>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// Returns whether the table has no rows.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Formats the table as text with colours, without a line break at its end.
    #[must_use]
    pub fn render(&self) -> String {
        let mut widths: Vec<usize> = self.heads.iter().map(|(head, _)| head.chars().count()).collect();
        for row in &self.rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.text.chars().count());
            }
        }
        let head: Vec<Cell> = self.heads.iter().map(|(head, _)| Cell::styled(*head, HEAD)).collect();
        std::iter::once(&head).chain(&self.rows).map(|row| self.line(row, &widths)).collect::<Vec<_>>().join("\n")
    }

    fn line(&self, row: &[Cell], widths: &[usize]) -> String {
        let mut line = String::new();
        let last = row.len().saturating_sub(1);
        for (at, ((cell, width), (_, align))) in row.iter().zip(widths).zip(&self.heads).enumerate() {
            let space = " ".repeat(width.saturating_sub(cell.text.chars().count()));
            let Cell { text, style } = cell;
            match align {
                Align::Right => line.push_str(&format!("{space}{style}{text}{style:#}")),
                Align::Left if at == last => line.push_str(&format!("{style}{text}{style:#}")),
                Align::Left => line.push_str(&format!("{style}{text}{style:#}{space}")),
            }
            if at != last {
                line.push_str("  ");
            }
        }
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let mut table = Table::new(&[("stream", Align::Left), ("waiting", Align::Right), ("why", Align::Left)]);
        table.row(["crm".into(), "7".into(), "".into()]);
        table.row(["payments".into(), "1200".into(), Cell::styled("paused", crate::out::WARN)]);
        let text = anstream::adapter::strip_str(&table.render()).to_string();
        assert_eq!(text, "stream    waiting  why\ncrm             7  \npayments     1200  paused");
    }
}
