//! Kinds of characters that matter in the search for words.

/// Punctuation of ASCII and Latin-1, quotation marks, dashes and dots, and their
/// counterparts in Arabic, Devanagari and East Asian scripts.
pub(super) fn is_punctuation(mark: char) -> bool {
    mark.is_ascii_punctuation()
        || matches!(
            mark,
            '¡' | '§' | '«' | '¶' | '·' | '»' | '¿' | '،' | '؛' | '؟' | '।' | '॥'
        )
        || matches!(mark, '\u{2010}'..='\u{2027}' | '\u{2030}'..='\u{205e}')
        || matches!(mark, '\u{3001}'..='\u{3003}' | '\u{3008}'..='\u{3011}')
        || matches!(mark, '\u{3014}'..='\u{301f}' | '・')
        || matches!(mark, '\u{ff01}'..='\u{ff0f}' | '\u{ff1a}'..='\u{ff20}')
        || matches!(mark, '\u{ff3b}'..='\u{ff40}' | '\u{ff5b}'..='\u{ff65}')
}

/// Characters that are not seen: Unicode's format characters (general category Cf), among
/// them the byte order mark, zero-width spaces and joiners, and the variation selectors.
pub(super) fn is_invisible(mark: char) -> bool {
    matches!(
        mark,
        '\u{ad}' | '\u{61c}' | '\u{6dd}' | '\u{70f}' | '\u{8e2}' | '\u{feff}' | '\u{e0001}'
    ) || matches!(mark, '\u{600}'..='\u{605}' | '\u{890}'..='\u{891}')
        || matches!(mark, '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}')
        || matches!(mark, '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}')
        || matches!(mark, '\u{fe00}'..='\u{fe0f}' | '\u{fff9}'..='\u{fffb}')
        || matches!(mark, '\u{e0020}'..='\u{e007f}' | '\u{e0100}'..='\u{e01ef}')
}

/// Letters of scripts that put no blanks between words: Chinese, Japanese, Yi, Thai, Lao,
/// Tibetan, Burmese, Khmer, Tai, Javanese and Balinese.
pub(super) fn is_unspaced(letter: char) -> bool {
    matches!(letter, '\u{e00}'..='\u{109f}' | '\u{1780}'..='\u{17ff}')
        || matches!(letter, '\u{1950}'..='\u{19ff}' | '\u{1a20}'..='\u{1aaf}')
        || matches!(letter, '\u{1b00}'..='\u{1b7f}' | '\u{a980}'..='\u{a9df}')
        || matches!(letter, '\u{3005}'..='\u{3007}' | '\u{3041}'..='\u{312f}')
        || matches!(letter, '\u{31a0}'..='\u{31bf}' | '\u{31f0}'..='\u{31ff}')
        || matches!(letter, '\u{3400}'..='\u{4dbf}' | '\u{4e00}'..='\u{a4cf}')
        || matches!(letter, '\u{aa60}'..='\u{aadf}' | '\u{f900}'..='\u{faff}')
        || matches!(letter, '\u{ff66}'..='\u{ff9f}' | '\u{20000}'..='\u{323af}')
}

/// Marks of these scripts that belong to the letter before them.
pub(super) fn is_mark(mark: char) -> bool {
    matches!(mark, '\u{300}'..='\u{36f}' | '\u{3099}'..='\u{309a}' | '\u{ff9e}'..='\u{ff9f}')
        || matches!(mark, '\u{e30}'..='\u{e3a}' | '\u{e45}' | '\u{e47}'..='\u{e4e}')
        || matches!(mark, '\u{eb0}'..='\u{ebc}' | '\u{ec8}'..='\u{ece}')
        || matches!(mark, '\u{f71}'..='\u{f84}' | '\u{f8d}'..='\u{fbc}')
        || matches!(mark, '\u{102b}'..='\u{103e}' | '\u{17b4}'..='\u{17d3}')
}
