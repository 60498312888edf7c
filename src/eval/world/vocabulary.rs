//! What captions tell, and the words for it.

use rand::seq::IndexedRandom;

use super::Dice;

/// A choice among a few words, each with a meaning that can be drawn.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($value:ident = $word:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[allow(missing_docs, reason = "each value has its word")]
        pub enum $name { $($value),+ }

        impl $name {
            /// Every choice.
            pub const ALL: &[Self] = &[$(Self::$value),+];

            /// The word for it.
            pub fn word(self) -> &'static str {
                match self { $(Self::$value => $word),+ }
            }

            pub(super) fn any(dice: &mut Dice) -> Self {
                *Self::ALL.choose(dice).expect("there are choices")
            }
        }
    };
}

words! {
    /// The form of a thing.
    Shape { Cube = "cube", Ball = "ball", Cylinder = "cylinder", Cone = "cone", Ring = "ring", Mug = "mug" }
}
words! {
    /// The colour of a thing.
    Colour {
        Red = "red", Orange = "orange", Yellow = "yellow", Green = "green",
        Blue = "blue", Purple = "purple", White = "white", Black = "black",
    }
}
words! {
    /// What a thing is made of. Captions leave `matte` out.
    Material { Matte = "matte", Metal = "metal", Glass = "glass", Wood = "wooden", Striped = "striped" }
}
words! {
    /// How big a thing is.
    Size { Small = "small", Large = "large" }
}
words! {
    /// Where a thing stands; there is one thing at most in each place.
    Place {
        BackLeft = "back left", BackRight = "back right",
        FrontLeft = "front left", FrontRight = "front right",
    }
}
words! {
    /// The table.
    Surface { Wood = "wooden", Marble = "marble", Checkered = "checkered", Slate = "slate" }
}
words! {
    /// The colour of the wall; no thing has it.
    Wall { Grey = "grey", Cream = "cream", Pink = "pink", Teal = "teal", Navy = "navy", Olive = "olive" }
}
words! {
    /// A warm lamp on the left, a cool window on the right, or soft light from above.
    Light { Warm = "warm", Cool = "cool", Soft = "soft" }
}
