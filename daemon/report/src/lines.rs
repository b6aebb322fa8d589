//! The lines of the page that were touched: 64 cells.

use crate::document::Incident;
use poisontrace_model::incident::model::Exits;

/// Lines of 64 bytes in a 4 KiB page.
pub const LINES: u32 = 64;

/// Whether each line was touched, line 0 first; `None` where nothing was touched, or it is not known.
pub fn touched(exits: &Exits) -> Option<impl Iterator<Item = bool>> {
    let bitmap = exits.line_bitmap?.0;
    (bitmap != 0).then(|| (0..LINES).map(move |line| bitmap >> line & 1 != 0))
}

/// What the cells are of.
pub fn of_what(incident: &Incident) -> &'static str {
    if incident.page.gpas.len() > 1 {
        "64-byte lines, those of all 4 KiB pages together"
    } else {
        "64-byte lines of the page"
    }
}
