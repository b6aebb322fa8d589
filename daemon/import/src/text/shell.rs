//! Words of a shell's command, as a paste shows it.

/// Prompts without a name.
pub const PROMPTS: [&[u8]; 4] = [b"$ ", b"# ", b"> ", b"+ "];

/// The words of a command.
pub fn words(command: &[u8]) -> impl Iterator<Item = &[u8]> {
    command.split(|b| *b == b' ').filter(|word| !word.is_empty())
}

/// The first word that is no option; `with_value`: options that the next word belongs to.
pub fn operand<'a>(words: &mut impl Iterator<Item = &'a [u8]>, with_value: &[&[u8]]) -> Option<&'a [u8]> {
    loop {
        let word = words.next()?;
        if !word.starts_with(b"-") {
            return Some(word);
        }
        if with_value.contains(&word) {
            words.next()?;
        }
    }
}
