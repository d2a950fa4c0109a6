//! What each macro takes and what it becomes.

use std::collections::BTreeMap;
use std::sync::LazyLock;

/// How a macro is rendered. Positions count the arguments of the signature from 0.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Rendering {
    /// Fixed text, whatever the arguments.
    Fixed(&'static str),
    /// All arguments, one after the other; nothing without them.
    Through,
    /// The pieces around the arguments. Without arguments: the template itself, `%s` for each.
    Template(&'static [&'static str]),
    /// One argument between two pieces of text; raises without arguments.
    Pick(&'static str, usize, &'static str),
    /// ASCII letters moved to the alphabets that start at these two code points.
    Alphabet(Alphabet),
    /// Every character of the argument with this mark behind it, composed where Unicode can.
    Accent(char),
    /// Not reproduced.
    Unknown,
}

/// A mathematical alphabet: first capital, first small letter, and the letters that live elsewhere.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Alphabet {
    upper: u32,
    lower: u32,
    elsewhere: &'static [(char, char)],
}

impl Alphabet {
    /// The letter in this alphabet; other characters stay.
    pub fn letter(self, c: char) -> char {
        if let Some(&(_, there)) = self.elsewhere.iter().find(|&&(letter, _)| letter == c) {
            return there;
        }
        let shifted = match c {
            'A'..='Z' => self.upper + (c as u32 - 'A' as u32),
            'a'..='z' => self.lower + (c as u32 - 'a' as u32),
            _ => return c,
        };
        char::from_u32(shifted).unwrap_or(c)
    }
}

const fn alphabet(upper: u32, elsewhere: &'static [(char, char)]) -> Rendering {
    Rendering::Alphabet(Alphabet { upper, lower: upper + 26, elsewhere })
}

const SCRIPT: &[(char, char)] = &[
    ('B', 'ℬ'),
    ('E', 'ℰ'),
    ('F', 'ℱ'),
    ('H', 'ℋ'),
    ('I', 'ℐ'),
    ('L', 'ℒ'),
    ('M', 'ℳ'),
    ('R', 'ℛ'),
    ('e', 'ℯ'),
    ('g', 'ℊ'),
    ('o', 'ℴ'),
];
const FRAKTUR: &[(char, char)] = &[('C', 'ℭ'), ('H', 'ℌ'), ('I', 'ℑ'), ('R', 'ℜ'), ('Z', 'ℨ')];
const DOUBLE_STRUCK: &[(char, char)] =
    &[('C', 'ℂ'), ('H', 'ℍ'), ('N', 'ℕ'), ('P', 'ℙ'), ('Q', 'ℚ'), ('R', 'ℝ'), ('Z', 'ℤ')];

/// `name symbol` pairs: macros without arguments that stand for fixed text.
const SYMBOLS: &str = include_str!("symbols.txt");

/// Macros for fixed text with blanks in it, or none.
const BLANKS: [(&str, &str); 11] = [
    (",", " "),
    (";", " "),
    (":", " "),
    (" ", " "),
    ("!", ""),
    ("-", "\u{ad}"),
    ("quad", "  "),
    ("qquad", "    "),
    ("enskip", "\u{2002}"),
    ("limsup", "lim sup"),
    ("liminf", "lim inf"),
];

/// Macros with one argument that leave it alone.
const THROUGH: &str = "mathrm emph textrm textit textbf textsc textsl text";

/// Macros with one argument that leave it alone, and are the literal `%s` without it.
const OVER_AND_UNDER: &str = "overline underline widehat widetilde wideparen overleftarrow overrightarrow \
    overleftrightarrow underleftarrow underrightarrow underleftrightarrow overbrace underbrace overgroup \
    undergroup overbracket underbracket overlinesegment underlinesegment overleftharpoon overrightharpoon";

/// Macros that vanish together with their arguments, by signature.
const VANISHING: [(&str, &str); 3] = [
    ("{", "mbox textmd textsf texttt textup label ensuremath"),
    ("[{", "hphantom vphantom xleftarrow xrightarrow color pagecolor"),
    ("*{", "hspace"),
];

/// Accents: the macros that set them and the mark.
const ACCENTS: [(&str, char); 18] = [
    ("' acute", '\u{301}'),
    ("` grave", '\u{300}'),
    ("\" ddot", '\u{308}'),
    ("c", '\u{327}'),
    ("^ hat", '\u{302}'),
    ("~ tilde", '\u{303}'),
    ("H", '\u{30b}'),
    ("k", '\u{328}'),
    ("=", '\u{304}'),
    ("b", '\u{331}'),
    (". dot", '\u{307}'),
    ("d", '\u{323}'),
    ("r", '\u{30a}'),
    ("u breve", '\u{306}'),
    ("v check", '\u{30c}'),
    ("vec", '\u{20d7}'),
    ("bar", '\u{305}'),
    ("not", '\u{338}'),
];

/// Known to the reference, not reproduced here: document structure, references, definitions.
const UNKNOWN: &str = "input include texorpdfstring title author date maketitle today url item footnote href \
    part chapter section subsection subsubsection paragraph subparagraph pagagraph includegraphics ref autoref \
    cref Cref eqref cite citet citep exercise uebung hint hints hinweis hinweise documentclass usepackage \
    RequirePackage selectlanguage setlength addlength setcounter addcounter newcommand renewcommand \
    providecommand newenvironment renewenvironment provideenvironment DeclareMathOperator bibliography \
    hypersetup keywords definecolor providecolor colorlet boxframe rowcolors verb citealt citealp citeauthor \
    citefullauthor citeyear citeyearpar Citet Citep Citealt Citealp Citeauthor citetext citenum defcitealias \
    citetalias citepalias subuebung subexercise pdfloesung pdfsolution exenumfulllabel";

type Table = BTreeMap<&'static str, (&'static str, Rendering)>;

/// Signature (`{` an argument, `[` an optional one, `*` an optional star) and rendering of a
/// macro; an unknown name takes nothing and vanishes.
pub fn lookup(name: &str) -> (&'static str, Rendering) {
    static TABLE: LazyLock<Table> = LazyLock::new(table);
    if name.get(..3).is_some_and(|start| start.eq_ignore_ascii_case("cyr")) || name.starts_with("Uebung") {
        return ("", Rendering::Unknown);
    }
    TABLE.get(name).copied().unwrap_or(("", Rendering::Fixed("")))
}

fn table() -> Table {
    let mut table = Table::new();
    let mut words = SYMBOLS.split_whitespace();
    while let (Some(name), Some(symbol)) = (words.next(), words.next()) {
        table.insert(name, ("", Rendering::Fixed(symbol)));
    }
    table.extend(BLANKS.map(|(name, text)| (name, ("", Rendering::Fixed(text)))));
    table.extend(UNKNOWN.split_whitespace().map(|name| (name, ("", Rendering::Unknown))));
    table.extend(THROUGH.split_whitespace().map(|name| (name, ("{", Rendering::Through))));
    table.extend(OVER_AND_UNDER.split_whitespace().map(|name| (name, ("{", Rendering::Template(&["", ""])))));
    for (signature, names) in VANISHING {
        table.extend(names.split_whitespace().map(|name| (name, (signature, Rendering::Fixed("")))));
    }
    for (names, mark) in ACCENTS {
        table.extend(names.split_whitespace().map(|name| (name, ("{", Rendering::Accent(mark)))));
    }
    table.extend(others());
    table
}

fn others() -> [(&'static str, (&'static str, Rendering)); 23] {
    use Rendering::{Fixed, Pick, Template};
    const FRACTION: &[&str] = &["", "/", ""];
    [
        ("\\", ("*[", Fixed("\n"))),
        ("vspace", ("*{", Fixed("\n"))),
        ("%", ("", Fixed("%"))),
        ("frac", ("{{", Template(FRACTION))),
        ("nicefrac", ("{{", Template(FRACTION))),
        ("textfrac", ("", Template(FRACTION))),
        ("sqrt", ("[{", Pick("√(", 1, ")"))),
        ("textcolor", ("[{{", Pick("", 2, ""))),
        ("colorbox", ("[{{", Pick("", 2, ""))),
        ("fcolorbox", ("[{[{{", Pick("", 4, ""))),
        ("ket", ("{", Template(&["|", "⟩"]))),
        ("bra", ("{", Template(&["⟨", "|"]))),
        ("braket", ("{{", Template(&["⟨", "|", "⟩"]))),
        ("ketbra", ("{{", Template(&["|", "⟩⟨", "|"]))),
        ("mathbf", ("{", alphabet(0x1D400, &[]))),
        ("mathit", ("{", alphabet(0x1D434, &[('h', 'ℎ')]))),
        ("mathsf", ("{", alphabet(0x1D5A0, &[]))),
        ("mathbb", ("{", alphabet(0x1D538, DOUBLE_STRUCK))),
        ("mathtt", ("{", alphabet(0x1D670, &[]))),
        ("mathcal", ("{", alphabet(0x1D49C, SCRIPT))),
        ("mathscr", ("{", alphabet(0x1D49C, SCRIPT))),
        ("mathfrak", ("{", alphabet(0x1D504, FRAKTUR))),
        ("nopagecolor", ("", Fixed(""))),
    ]
}

/// For each combining mark, the ASCII characters with which it composes, each before its composition.
const COMPOSED: [(char, &str); 16] = [
    ('\u{301}', "AÁCĆEÉGǴIÍKḰLĹMḾNŃOÓPṔRŔSŚUÚWẂYÝZŹaácćeégǵiíkḱlĺmḿnńoópṕrŕsśuúwẃyýzź"),
    ('\u{300}', "AÀEÈIÌNǸOÒUÙWẀYỲaàeèiìnǹoòuùwẁyỳ"),
    ('\u{308}', "AÄEËHḦIÏOÖUÜWẄXẌYŸaäeëhḧiïoötẗuüwẅxẍyÿ"),
    ('\u{327}', "CÇDḐEȨGĢHḨKĶLĻNŅRŖSŞTŢcçdḑeȩgģhḩkķlļnņrŗsştţ"),
    ('\u{302}', "AÂCĈEÊGĜHĤIÎJĴOÔSŜUÛWŴYŶZẐaâcĉeêgĝhĥiîjĵoôsŝuûwŵyŷzẑ"),
    ('\u{303}', "AÃEẼIĨNÑOÕUŨVṼYỸaãeẽiĩnñoõuũvṽyỹ"),
    ('\u{30b}', "OŐUŰoőuű"),
    ('\u{328}', "AĄEĘIĮOǪUŲaąeęiįoǫuų"),
    ('\u{304}', "AĀEĒGḠIĪOŌUŪYȲaāeēgḡiīoōuūyȳ"),
    ('\u{331}', "BḆDḎKḴLḺNṈRṞTṮZẔbḇdḏhẖkḵlḻnṉrṟtṯzẕ"),
    ('\u{307}', "AȦBḂCĊDḊEĖFḞGĠHḢIİMṀNṄOȮPṖRṘSṠTṪWẆXẊYẎZŻaȧbḃcċdḋeėfḟgġhḣmṁnṅoȯpṗrṙsṡtṫwẇxẋyẏzż"),
    ('\u{323}', "AẠBḄDḌEẸHḤIỊKḲLḶMṂNṆOỌRṚSṢTṬUỤVṾWẈYỴZẒaạbḅdḍeẹhḥiịkḳlḷmṃnṇoọrṛsṣtṭuụvṿwẉyỵzẓ"),
    ('\u{30a}', "AÅUŮaåuůwẘyẙ"),
    ('\u{306}', "AĂEĔGĞIĬOŎUŬaăeĕgğiĭoŏuŭ"),
    ('\u{30c}', "AǍCČDĎEĚGǦHȞIǏKǨLĽNŇOǑRŘSŠTŤUǓZŽaǎcčdďeěgǧhȟiǐjǰkǩlľnňoǒrřsštťuǔzž"),
    ('\u{338}', "<≮=≠>≯"),
];

/// A character with a combining mark, composed (NFC); `None` for characters outside ASCII.
pub fn accented(c: char, mark: char) -> Option<String> {
    let base = match c {
        'ı' => 'i',
        'ȷ' => 'j',
        _ if c.is_ascii() => c,
        _ => return None,
    };
    let pairs = COMPOSED.iter().find(|&&(composing, _)| composing == mark).map_or("", |&(_, pairs)| pairs);
    let mut chars = pairs.chars();
    while let (Some(plain), Some(composed)) = (chars.next(), chars.next()) {
        if plain == base {
            return Some(composed.to_string());
        }
    }
    Some([base, mark].iter().collect())
}
