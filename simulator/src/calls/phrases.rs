//! The phrases of callers and agents.
//!
//! Each call fills in the placeholders `{name}`, `{day}`, `{time}`, `{code}` and `{number}`.

/// The subject of a call.
pub(super) struct Topic {
    pub(super) intent: &'static str,
    /// Heading and content of the summary.
    pub(super) summary: (&'static str, &'static str),
    pub(super) openings: &'static [&'static str],
    /// The agent's line and the caller's answer. An answer with a name, number or code is private.
    pub(super) steps: &'static [(&'static str, &'static str)],
    /// Destination and reason of a handoff.
    pub(super) handoff: (&'static str, &'static str),
}

pub(super) const GREETINGS: &[&str] = &[
    "Thanks for calling Harbour Hotels. This call is recorded. How can I help you today?",
    "Hello, you're through to the harbour desk. What can I do for you?",
    "Good day, Harbour Hotels, I'm the digital concierge. How may I help?",
    "Welcome back to Harbour Hotels! What would you like to do?",
];

pub(super) const TOPICS: &[Topic] = &[
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

/// Exchanges on any subject, after the steps of the topic.
pub(super) const ASIDES: &[(&str, &str)] = &[
    ("Sorry, could you say that again?", "I said, the line is not very good today."),
    ("I can hear a lot of wind. Are you at the harbour already?", "Ha, no. That's the motorway."),
    ("Is there anything else you would like to know?", "How far is it from the station on foot?"),
    ("Would you like me to repeat that?", "No, I have it."),
    ("Just to be sure: {day} at {time}?", "Yes. {day}, {time}."),
];

pub(super) const SILENCES: &[&str] = &["Are you still there?", "I didn't hear anything. Shall I go on?"];

pub(super) const OUT_OF_DOMAIN: &[(&str, &str)] = &[
    ("Can you tell me who won the match last night?", "I'm afraid I only know about our hotels."),
    ("Mum, not now, I'm on the phone.", "I think that was not for me. Shall we go on?"),
];

pub(super) const CLOSINGS: &[(&str, &str)] = &[
    ("That's all, thank you.", "You're very welcome. Goodbye!"),
    ("Great, bye!", "Goodbye, and see you at the harbour."),
    ("Perfect. Cheers.", "My pleasure. Have a lovely day."),
];

pub(super) const HANDOFF_LINES: &[&str] = &[
    "I'll put you through to a colleague who can decide that. One moment please.",
    "Let me connect you with the team. Please stay on the line.",
];

/// Endings of typed messages.
pub(super) const CHAT_MARKS: &[&str] =
    &[" 🙂", " 👍🏽", " 🐕‍🦺", "…", " 🏖️ 🇵🇹", " <3 & \"thanks\"", "\n(sent from my boat)"];

/// Exchanges in another language: code, then (caller, caller in English, agent, agent in English).
pub(super) const FOREIGN: &[(&str, &[[&str; 4]])] = &[
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
];

pub(super) const NAMES: &[&str] = &[
    "Ada Okonkwo",
    "Søren Åkesson",
    "María-José Núñez",
    "Zoë O'Hara",
    "Łukasz Wójcik",
    "Nguyễn Thị Hà",
    "山田 花子",
    "عمر الفاسي",
    "Null O'Brien-Smith",
];

pub(super) const DAYS: &[&str] = &[
    "Monday",
    "Tuesday the third",
    "next Wednesday",
    "Thursday",
    "Friday",
    "Saturday the twelfth",
    "Sunday",
];

pub(super) const TIMES: &[&str] =
    &["half past seven", "noon", "quarter to nine", "3 p.m.", "six thirty", "late, after ten"];

/// Id and name.
pub(super) const VARIANTS: &[(&str, &str)] = &[
    ("VARIANT-H4RB0UR1", "Harbour front"),
    ("VARIANT-0LDM1LL2", "Old mill & café"),
    ("VARIANT-P1ER0003", "Pier № 3"),
];
