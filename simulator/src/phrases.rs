//! What callers and agents say: our own lines, to be put together into conversations.
//!
//! Braces stand for what each call fills in: `{name}`, `{day}`, `{time}`, `{code}`, `{number}`.

/// A reason to call.
pub(crate) struct Topic {
    pub(crate) intent: &'static str,
    /// Heading and content of the summary.
    pub(crate) summary: (&'static str, &'static str),
    pub(crate) openings: &'static [&'static str],
    /// What the agent says, and how the caller answers. A caller's line with a brace in it is private.
    pub(crate) steps: &'static [(&'static str, &'static str)],
    /// Where the call goes if the agent hands it off, and why.
    pub(crate) handoff: (&'static str, &'static str),
}

pub(crate) const GREETINGS: &[&str] = &[
    "Thanks for calling Harbour Hotels. This call is recorded. How can I help you today?",
    "Hello, you're through to the harbour desk. What can I do for you?",
    "Good day, Harbour Hotels, I'm the digital concierge. How may I help?",
    "Welcome back to Harbour Hotels! What would you like to do?",
];

pub(crate) const TOPICS: &[Topic] = &[
    Topic {
        intent: "book_room",
        summary: (
            "Room booking",
            "The caller asked for a room by the sea and was given a confirmation code.",
        ),
        openings: &[
            "Hi, I'd like to book a room for the weekend.",
            "Do you have anything free on {day}? Two adults and a very small dog.",
            "I want to come back to the place with the blue door, same room if possible.",
        ],
        steps: &[
            ("Of course. Which day would you like to arrive?", "{day}, around {time}."),
            ("Could I take the name for the booking?", "It's {name}."),
            (
                "Would you like a sea view? It is twelve euros more a night.",
                "Yes please, that's why we come.",
            ),
            ("How many nights will you stay?", "Three. No, sorry, four nights."),
            ("And a number we can reach you on?", "{number}"),
            ("Shall I add breakfast?", "Is there porridge? Then yes."),
            ("Do you need parking?", "No, we arrive by train."),
            ("I have reserved it. Your code is {code}.", "Let me write that down. {code}. Got it."),
        ],
        handoff: ("Reservations desk", "GROUP_BOOKING"),
    },
    Topic {
        intent: "change_booking",
        summary: ("Change of a booking", "The caller moved an existing stay to another day."),
        openings: &[
            "I need to move my stay, something came up at work.",
            "Hello? Yes. I booked for {day} and that was a mistake.",
        ],
        steps: &[
            ("No problem. What is the booking code?", "It says {code} here."),
            ("Thank you. And the name on it?", "{name}. Should be under that."),
            ("I found it. Which day suits you better?", "{day} would be perfect."),
            ("The price stays the same. Shall I change it?", "Yes, go ahead."),
            ("Will you still arrive at {time}?", "A bit later, maybe {time}."),
            ("Done. You will get a new confirmation by text message.", "To {number}, right?"),
        ],
        handoff: ("Reservations desk", "BOOKING_LOCKED"),
    },
    Topic {
        intent: "lost_property",
        summary: ("Lost property", "The caller had left something in the room; the desk will look for it."),
        openings: &[
            "I think I left my reading glasses in the room.",
            "My son forgot a stuffed rabbit. It is rather urgent.",
        ],
        steps: &[
            (
                "I'm sorry to hear that. Which room were you in?",
                "Two hundred and twelve, I think. Or thirteen.",
            ),
            ("When did you leave us?", "{day}, in the morning."),
            ("What does it look like?", "Grey, one ear, much loved."),
            ("Whom should we call when we find it?", "{name}, on {number}."),
            ("Shall we post it to you?", "That would be wonderful, thank you."),
        ],
        handoff: ("Front desk", "ITEM_OF_VALUE"),
    },
    Topic {
        intent: "opening_hours",
        summary: ("Opening hours", "The caller asked when the restaurant is open and booked a table."),
        openings: &["What time does the restaurant open?", "Are you still serving food at {time}?"],
        steps: &[
            (
                "The kitchen is open from noon to ten. Would you like a table?",
                "For five people, {day} at {time}.",
            ),
            ("Any allergies we should know of?", "One of us cannot have nuts. Not even a little."),
            ("Inside or on the terrace?", "The terrace, if it isn't raining."),
            ("Under which name?", "{name}."),
            ("It is booked. Is there anything else?", "Do you have high chairs?"),
        ],
        handoff: ("Restaurant", "ALLERGY_QUESTION"),
    },
    Topic {
        intent: "invoice",
        summary: ("Invoice", "The caller asked for a copy of an invoice with the company's name on it."),
        openings: &[
            "I need the invoice again, with our company on it.",
            "There is a charge on my card I don't recognise.",
        ],
        steps: &[
            ("I can help with that. What is the number of the stay?", "{code}."),
            ("Which amount is it about?", "Eighty-four fifty."),
            ("That was the minibar and one late check-out.", "Ah. The crisps. Fair enough."),
            ("Where shall I send the copy?", "Please text a link to {number}."),
            ("Which name should be on the invoice?", "{name}, and then the company."),
        ],
        handoff: ("Accounts", "DISPUTED_CHARGE"),
    },
];

/// Said by callers in between, on any subject.
pub(crate) const ASIDES: &[(&str, &str)] = &[
    ("Sorry, could you say that again?", "I said, the line is not very good today."),
    ("One moment while I look that up.", "Take your time."),
    ("I can hear a lot of wind. Are you at the harbour already?", "Ha, no. That's the motorway."),
    ("Is there anything else you would like to know?", "How far is it from the station on foot?"),
    ("It is about ten minutes, downhill.", "And uphill on the way back, I suppose."),
    ("Would you like me to repeat that?", "No, I have it."),
    ("I have noted that for the team.", "Thanks, that's kind."),
    ("Just to be sure: {day} at {time}?", "Yes. {day}, {time}."),
];

pub(crate) const SILENCES: &[&str] = &["Are you still there?", "I didn't hear anything. Shall I go on?"];

pub(crate) const OUT_OF_DOMAIN: &[(&str, &str)] = &[
    ("Can you tell me who won the match last night?", "I'm afraid I only know about our hotels."),
    ("Mum, not now, I'm on the phone.", "I think that was not for me. Shall we go on?"),
];

pub(crate) const CLOSINGS: &[(&str, &str)] = &[
    ("That's all, thank you.", "You're very welcome. Goodbye!"),
    ("Great, bye!", "Goodbye, and see you at the harbour."),
    ("Perfect. Cheers.", "My pleasure. Have a lovely day."),
];

pub(crate) const HANDOFF_LINES: &[&str] = &[
    "I'll put you through to a colleague who can decide that. One moment please.",
    "Let me connect you with the team. Please stay on the line.",
];

/// What callers add where they type instead of speaking.
pub(crate) const CHAT_MARKS: &[&str] =
    &[" 🙂", " 👍🏽", " 🐕‍🦺", "…", " 🏖️ 🇵🇹", " <3 & \"thanks\"", "\n(sent from my boat)"];

/// Exchanges in another language: code, then (caller, caller in English, agent, agent in English).
pub(crate) const FOREIGN: &[(&str, &[[&str; 4]])] = &[
    (
        "es-ES",
        &[
            [
                "Hola, quería cambiar mi reserva para mañana.",
                "Hello, I wanted to change my booking for tomorrow.",
                "Claro que sí. ¿A nombre de quién está?",
                "Of course. Whose name is it under?",
            ],
            [
                "A nombre de {name}.",
                "Under {name}.",
                "Gracias. ¿A qué hora llegarán?",
                "Thank you. When will you arrive?",
            ],
            [
                "Sobre las ocho, con el niño.",
                "About eight, with the child.",
                "Perfecto, ya está cambiado.",
                "Perfect, it is changed.",
            ],
        ],
    ),
    (
        "ja-JP",
        &[
            [
                "明日の夜、二名で予約できますか。",
                "Can I book for two tomorrow night?",
                "はい、海の見えるお部屋が空いております。",
                "Yes, a room with a sea view is free.",
            ],
            [
                "では、それでお願いします。",
                "That one, please.",
                "お名前を伺えますか。",
                "May I have your name?",
            ],
            [
                "{name}です。",
                "It is {name}.",
                "ありがとうございます。お待ちしております。",
                "Thank you. We look forward to it.",
            ],
        ],
    ),
    (
        "ar-SA",
        &[
            [
                "مرحبا، أريد غرفة لليلتين من فضلك.",
                "Hello, I would like a room for two nights please.",
                "أهلاً بك. متى تصل؟",
                "Welcome. When do you arrive?",
            ],
            ["يوم الخميس في المساء.", "Thursday evening.", "ما الاسم من فضلك؟", "What is the name please?"],
            ["الاسم {name}.", "The name is {name}.", "شكراً، تم الحجز ✓", "Thank you, it is booked."],
        ],
    ),
    (
        "cy-GB",
        &[
            [
                "Bore da! Oes ystafell ar gael nos Sadwrn?",
                "Good morning! Is there a room on Saturday night?",
                "Oes, mae un ar ôl.",
                "Yes, one is left.",
            ],
            [
                "Ardderchog, diolch yn fawr.",
                "Excellent, thank you very much.",
                "Croeso! Beth yw'r enw?",
                "You're welcome! What is the name?",
            ],
        ],
    ),
];

pub(crate) const NAMES: &[&str] = &[
    "Ada Okonkwo",
    "Søren Åkesson",
    "María-José Núñez",
    "Zoë O'Hara",
    "Łukasz Wójcik",
    "Priya Raghunathan",
    "Jürgen Weiß",
    "Nguyễn Thị Hà",
    "Siân ap Rhys",
    "Chloé D'Arcy",
    "Ólafur Þórsson",
    "Fatma Yıldız",
    "山田 花子",
    "عمر الفاسي",
    "Ἀθηνᾶ Παππά",
    "Null O'Brien-Smith",
];

pub(crate) const DAYS: &[&str] = &[
    "Monday",
    "Tuesday the third",
    "next Wednesday",
    "Thursday",
    "Friday",
    "Saturday the twelfth",
    "Sunday",
];

pub(crate) const TIMES: &[&str] =
    &["half past seven", "noon", "quarter to nine", "3 p.m.", "six thirty", "late, after ten"];

/// Id and name.
pub(crate) const VARIANTS: &[(&str, &str)] = &[
    ("VARIANT-H4RB0UR1", "Harbour front"),
    ("VARIANT-0LDM1LL2", "Old mill & café"),
    ("VARIANT-P1ER0003", "Pier № 3"),
];
