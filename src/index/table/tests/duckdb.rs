use std::{
    fs,
    io::Write as _,
    path::Path,
    process::{Command, Stdio},
};

use expect_test::expect;
use serde_json::Value;

use super::{values::HOSTILE, *};

/// Runs SQL in `DuckDB` and returns the rows of each statement.
fn query<const N: usize>(statements: &[String; N]) -> [Vec<Value>; N] {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut python = Command::new(root.join(".tools/venv/bin/python"))
        .arg(root.join("tests/it/support/query_duckdb.py"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("run scripts/install-test-tools first");
    let input = serde_json::to_vec(&statements[..]).unwrap();
    python.stdin.take().unwrap().write_all(&input).unwrap();
    let output = python.wait_with_output().unwrap();
    assert!(output.status.success());
    let lines = String::from_utf8(output.stdout).unwrap();
    let answers: Vec<Vec<Value>> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    answers.try_into().unwrap()
}

/// Writes files of two days as they are in the archive, and returns the SQL of both tables.
fn write_days(root: &Path) -> [String; 2] {
    let write = |table: &str, date: &str, file: &[u8]| {
        let folder = root.join(format!("index/{table}/account_id=ac-1/project_id=0012/date={date}"));
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join(format!("{table}.parquet")), file).unwrap();
    };
    // DuckDB takes the types of a CSV or JSON column from its first values. These ids must remain text.
    let ids = HOSTILE.into_iter().filter(|id| !id.is_empty());
    let hostile_calls: Vec<_> =
        ids.map(|id| CallRow { tags: vec![id.to_owned()], ..bare_call(id) }).collect();
    write("calls", "2026-11-29", &file_of_calls(&hostile_calls));
    write(
        "calls",
        "2026-11-30",
        &update_calls(Some(&file_of_calls(&[full_call("a")])), &stamp(), &|_| false, &[bare_call("b")])
            .unwrap(),
    );
    let long = TurnRow { user_input: Some("long ".repeat(200_000)), ..full_turn("a", 2) };
    let bare = TurnRow { conversation_id: "b".to_owned(), ..TurnRow::default() };
    write("turns", "2026-11-29", &file_of_turns(&[]));
    write(
        "turns",
        "2026-11-30",
        &update_turns(Some(&file_of_turns(&[full_turn("a", 1), long])), &stamp(), &|_| false, &[bare])
            .unwrap(),
    );
    ["calls", "turns"].map(|table| {
        format!("read_parquet('{}/index/{table}/*/*/*/*.parquet', hive_partitioning = true)", root.display())
    })
}

/// Returns the text of rows of one text.
fn lines(rows: &[Value]) -> String {
    rows.iter().map(|row| row[0].as_str().unwrap().to_owned() + "\n").collect()
}

#[test]
fn duckdb_reads_columns_with_types_nulls_hostile_texts_and_partitions() {
    let folder = tempfile::tempdir().unwrap();
    let [calls, turns] = write_days(folder.path());
    let types = |table: &str| {
        format!("select column_name || ' ' || column_type from (describe select * from {table})")
    };
    let row = |table: &str, place: &str| {
        format!("select to_json(t)::varchar from (select * from {table} where {place}) t")
    };
    let [call_types, turn_types, call, turn, ids, bare, days, joined, metadata] = query(&[
        types(&calls),
        types(&turns),
        row(&calls, "conversation_id = 'a'"),
        row(&turns, "conversation_id = 'a' and number = 1"),
        format!("select conversation_id, tags[1] from {calls} where date = '2026-11-29'"),
        row(&calls, "conversation_id = 'b'"),
        format!("select account_id, project_id, date, count(*) from {calls} group by all order by all"),
        format!(
            "select length(user_input), metrics['colour'] from {turns} t join {calls} c using (conversation_id) where number = 2"
        ),
        format!(
            "select decode(key) || '=' || decode(value) from parquet_kv_metadata('{}/index/turns/*/*/*/*.parquet') where decode(key) in ('polyhook.schema_version', 'polyhook.numbers')",
            folder.path().display()
        ),
    ]);
    let hostile = HOSTILE.into_iter().filter(|id| !id.is_empty()).map(|id| serde_json::json!([id, id]));
    assert_eq!(ids, hostile.collect::<Vec<_>>());
    expect![[r"
        conversation_id VARCHAR
        environment VARCHAR
        channel VARCHAR
        direction VARCHAR
        variant VARCHAR
        variant_id VARCHAR
        language VARCHAR
        started_at TIMESTAMP WITH TIME ZONE
        ended_at TIMESTAMP WITH TIME ZONE
        duration_s DOUBLE
        polyai_duration_s DOUBLE
        num_turns BIGINT
        turn_rows BIGINT
        handoff BOOLEAN
        handoff_reason VARCHAR
        handoff_destination VARCHAR
        num_silences BIGINT
        num_out_of_domain BIGINT
        summary_heading VARCHAR
        summary VARCHAR
        score DOUBLE
        score_scale VARCHAR
        from_number VARCHAR
        to_number VARCHAR
        metrics MAP(VARCHAR, VARCHAR)
        tags VARCHAR[]
        audio_status VARCHAR
        audio_seconds DOUBLE
        audio_path VARCHAR
        conversation_path VARCHAR
        warnings VARCHAR[]
        in_progress BOOLEAN
        served_by VARCHAR
        trigger VARCHAR
        archived_at TIMESTAMP WITH TIME ZONE
        revision BIGINT
        manifest_sha256 VARCHAR
        stored_at TIMESTAMP WITH TIME ZONE
        rest JSON
        account_id VARCHAR
        date DATE
        project_id VARCHAR
    "]]
    .assert_eq(&lines(&call_types));
    expect![[r"
        conversation_id VARCHAR
        call_started_at TIMESTAMP WITH TIME ZONE
        number INTEGER
        user_input VARCHAR
        agent_response VARCHAR
        translated_user_input VARCHAR
        english_agent_response VARCHAR
        user_input_at TIMESTAMP WITH TIME ZONE
        agent_response_at TIMESTAMP WITH TIME ZONE
        offset_s DOUBLE
        latency_s DOUBLE
        interrupted BOOLEAN
        silence BOOLEAN
        out_of_domain BOOLEAN
        intents VARCHAR[]
        entities JSON
        account_id VARCHAR
        date DATE
        project_id VARCHAR
    "]]
    .assert_eq(&lines(&turn_types));
    expect![[r#"
        {"conversation_id":"a","environment":"environment of a","channel":"channel of a","direction":"direction of a","variant":"variant of a","variant_id":"variant_id of a","language":"language of a","started_at":"2026-11-30 23:59:59.123456+00","ended_at":"2026-12-01 00:01:00+00","duration_s":60.5,"polyai_duration_s":0.125,"num_turns":3,"turn_rows":2,"handoff":true,"handoff_reason":"handoff_reason of a","handoff_destination":"handoff_destination of a","num_silences":1,"num_out_of_domain":0,"summary_heading":"summary_heading of a","summary":"summary of a","score":7.5,"score_scale":"score_scale of a","from_number":"from_number of a","to_number":"to_number of a","metrics":{"colour":"metric of a","empty":null},"tags":["first","second"],"audio_status":"ready","audio_seconds":59.75,"audio_path":"audio_path of a","conversation_path":"conversation_path of a","warnings":["warning"],"in_progress":true,"served_by":"v3","trigger":"webhook","archived_at":"2026-12-01 00:02:00+00","revision":2,"manifest_sha256":"sha256 of a","stored_at":"2026-12-01 00:02:01+00","rest":{"a":[1,null]},"account_id":"ac-1","date":"2026-11-30","project_id":"0012"}
    "#]].assert_eq(&lines(&call));
    expect![[r#"
        {"conversation_id":"a","call_started_at":"2026-11-30 23:59:59.123456+00","number":1,"user_input":"user_input 1 of a","agent_response":"agent_response 1 of a","translated_user_input":"translated_user_input 1 of a","english_agent_response":"english_agent_response 1 of a","user_input_at":"2026-12-01 00:00:01.5+00","agent_response_at":"2026-12-01 00:00:03+00","offset_s":2.5,"latency_s":1.5,"interrupted":true,"silence":false,"out_of_domain":false,"intents":["greet","book"],"entities":[{"name":"date"}],"account_id":"ac-1","date":"2026-11-30","project_id":"0012"}
    "#]].assert_eq(&lines(&turn));
    expect![[r#"
        {"conversation_id":"b","environment":null,"channel":null,"direction":null,"variant":null,"variant_id":null,"language":null,"started_at":"1970-01-01 00:00:00+00","ended_at":null,"duration_s":null,"polyai_duration_s":null,"num_turns":0,"turn_rows":0,"handoff":false,"handoff_reason":null,"handoff_destination":null,"num_silences":null,"num_out_of_domain":null,"summary_heading":null,"summary":null,"score":null,"score_scale":null,"from_number":null,"to_number":null,"metrics":{},"tags":[],"audio_status":"","audio_seconds":null,"audio_path":null,"conversation_path":"","warnings":[],"in_progress":false,"served_by":"","trigger":"","archived_at":"1970-01-01 00:00:00+00","revision":0,"manifest_sha256":"","stored_at":"1970-01-01 00:00:00+00","rest":null,"account_id":"ac-1","date":"2026-11-30","project_id":"0012"}
    "#]].assert_eq(&lines(&bare));
    expect![[r#"[["ac-1","0012","2026-11-29",7],["ac-1","0012","2026-11-30",2]]"#]]
        .assert_eq(&serde_json::to_string(&days).unwrap());
    expect![[r#"[[1000000,"metric of a"]]"#]].assert_eq(&serde_json::to_string(&joined).unwrap());
    expect![[r"
        polyhook.schema_version=1
        polyhook.numbers=omit
        polyhook.schema_version=1
        polyhook.numbers=omit
    "]]
    .assert_eq(&lines(&metadata));
}
