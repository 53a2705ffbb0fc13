#!/usr/bin/env bash
# Takes one safety mechanism at a time out of a copy of the sources, and expects a test to fail. A mechanism that no test
# misses is not held by any.
set -euo pipefail
cd "$(dirname "$0")/.."
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/logship/target}"
export LOGSHIP_SIM_SEEDS=300
copy="$(mktemp -d)/logship"
trap 'rm -rf "$(dirname "$copy")"' EXIT
mkdir "$copy"
git ls-files -z | xargs -0 cp --parents -t "$copy"

simulation=(cargo test -q -p logship-testkit --test simulation --locked the_promises)
survivors=0

# mutate NAME FILE FROM TO TEST...
mutate() {
  local name="$1" file="$2" from="$3" to="$4"
  shift 4
  FROM="$from" TO="$to" python3 - "$copy/$file" <<'PY'
import os, sys
path = sys.argv[1]
text = open(path).read()
count = text.count(os.environ["FROM"])
if count != 1:
    sys.exit(f"{path}: what is to be taken out stands there {count} times")
open(path, "w").write(text.replace(os.environ["FROM"], os.environ["TO"]))
PY
  # A mutation that does not compile proves nothing.
  (cd "$copy" && "$@" --no-run >/dev/null 2>"$copy/build.log") || { cat "$copy/build.log"; echo "$name: does not compile"; exit 1; }
  if (cd "$copy" && timeout 300 "$@" >/dev/null 2>&1); then
    echo "SURVIVED  $name"
    survivors=$((survivors + 1))
  else
    echo "caught    $name"
  fi
  cp "$file" "$copy/$file"
}

core=logship-core/src/engine
mutate "an offset moves only after the destination has answered" $core/outbox.rs \
  'self.ledgers[partition].1.open(number, change);' \
  'let ledger = &mut self.ledgers[partition].1; ledger.open(number, change); ledger.done(number);' \
  "${simulation[@]}"
mutate "an offset moves only over a prefix without gaps" $core/ledger.rs \
  'self.entries.pop_front_if(|entry| entry.state == State::Done)' \
  'self.entries.iter().position(|entry| entry.state == State::Done).and_then(|at| self.entries.remove(at))' \
  "${simulation[@]}"
mutate "what was shipped of the overlap is known" $core/late.rs \
  'self.seen.contains(&SeenIds::id_of(position))' 'self.seen.is_empty() && position.as_number() == i64::MIN' \
  "${simulation[@]}"
mutate "the overlap is read again" $core/late.rs \
  'self.window.as_ref().is_some_and(is_inside) && self.again.is_none() && rested' \
  'self.window.as_ref().is_some_and(is_inside) && self.again.is_none() && rested && false' \
  "${simulation[@]}"
mutate "no record passes the horizon" $core/reader.rs \
  '[horizon, self.options.until' '[horizon.filter(|_| false), self.options.until' \
  "${simulation[@]}"
mutate "memory keeps to the budget" $core/intake.rs \
  'self.gauge.now() + fetching <= self.lane.share ||' 'fetching < usize::MAX ||' \
  cargo test -q -p logship --locked --test memory
mutate "lanes of the same speed keep together" $core/reader.rs \
  'if !is_many || window.find(start).is_some() {' 'if is_many || window.find(start).is_some() {' \
  cargo test -q -p logship --locked --test hung_lane
mutate "a destination that cannot tell a repeat gets one chunk at a time for each slot" $core/outbox.rs \
  'Idempotency::None => concurrency,' 'Idempotency::None => concurrency + 20,' \
  "${simulation[@]}"
mutate "the place where a chunk begins is durable before the next one" $core/outbox.rs \
  'unsettled >= self.window() || (by_chunk && !self.committing.is_empty())' 'unsettled >= 9 * self.window()' \
  "${simulation[@]}"
mutate "a refused record is in the dead letter before it is passed over" $core/delivery.rs \
  'if let Err(error) = dead_letter.send(&self.lane, self.clock.now(), &part.chunk, &refused).await {' \
  'if let (Err(error), true) = (dead_letter.send(&self.lane, self.clock.now(), &part.chunk, &refused[..0]).await, false) {' \
  "${simulation[@]}"
mutate "no letters take the place of others" $core/dead_letter.rs \
  'chunk.heads().next().map(|letter| letter.position.detached())' \
  'chunk.heads().next().map(|letter| crate::Cursor::number(letter.position.as_number() / 4))' \
  "${simulation[@]}"
mutate "an old lease moves nothing" logship-core/src/offset_document.rs \
  'Some(holder) if self.epoch == lease.epoch &&' 'Some(holder) if self.epoch >= lease.epoch &&' \
  cargo test -q -p logship-state --locked --test memory
mutate "a journal counts for the file it follows alone" logship-state/src/file/files.rs \
  '&mut content, |entry, sum| entry.base == sum)?' '&mut content, |entry, _| !entry.base.is_empty())?' \
  cargo test -q -p logship-state --locked --test journal
mutate "a journal stays until the file has taken its place" logship-state/src/file/files.rs \
  'Files::take_place, Files::keep_journal]' 'Files::keep_journal, Files::take_place]' \
  cargo test -q -p logship-state --locked --lib file
mutate "only what every lane is known to have is deleted" $core/deleter.rs \
  'lanes.all(|((_, filter), shipped)| shipped.contains(&id) || !filter.matches(record))' 'lanes.all(|_| id > 0)' \
  "${simulation[@]}"
mutate "what is not settled is not deleted" $core/deleter.rs \
  'Some(window) => cursor.min(window.after.as_ref()?),' 'Some(_) => cursor,' \
  "${simulation[@]}"
mutate "redaction comes before any lane" logship-core/src/page.rs \
  'self.preparation.transforms.iter().for_each(' 'self.preparation.transforms.iter().skip(usize::MAX).for_each(' \
  cargo test -q -p logship --locked --test redaction
mutate "a record that is made again is transformed again" logship-core/src/page.rs \
  'Passage::new(&self.preparation)' 'Passage::new(&Preparation::default())' \
  cargo test -q -p logship-core --locked --lib page
mutate "lanes share a body only of the same records" logship-core/src/body.rs \
  'Arc::as_ptr(&segment.page) && *range == segment.range' 'Arc::as_ptr(&segment.page) && !range.is_empty()' \
  cargo test -q -p logship-core --locked --lib chunk
mutate "a key that a neighbour has found is good for all" logship-exporters/src/rotated.rs \
  'if *state.refused.as_ref().unwrap_or(&state.current) == fresh {' 'if state.current == fresh {' \
  cargo test -q -p logship --locked --test rotation
mutate "a key of AWS that a neighbour has found is good for all" logship-connect/src/aws/credentials.rs \
  'is_some_and(|at| now < at + UNDER_WAY)' 'is_some_and(|at| now < at)' \
  cargo test -q -p logship-connect --features aws --locked --lib credentials
mutate "a session's token is not shown" logship-connect/src/aws/client.rs \
  'if !token.is_empty() && !is_an_answer(&response)' 'if token.is_empty() && !is_an_answer(&response)' \
  cargo test -q -p logship --locked --test secrets

mutate "secrets behind a network are asked for anew" $core/renewal.rs \
  'let renewed = secrets.renew().await;' 'let renewed: Result<(), Error> = Ok(drop(secrets));' \
  cargo test -q -p logship --locked --test rotation
mutate "new credentials that cannot be had just now are tried for again" $core/delivery.rs \
  'self.back_off(part, cause)' 'self.back_off(Part { refreshed: true, ..part }, cause)' \
  cargo test -q -p logship --locked --test rotation
mutate "a record that Kinesis did not take is sent again" logship-exporters/src/put_records.rs \
  '(Some(_), _) => outcome.retry(place),' '(Some(_), _) => outcome.accepted(place),' \
  cargo test -q -p logship-exporters --features kinesis --locked --test conformance kinesis::c3_of

mutate "a flush of the spool waits for the disk" logship-sources/src/tracing/mod.rs \
  'if state.written >= sent {' 'if state.written <= sent {' \
  cargo test -q -p logship --locked --test tracing_spool
mutate "a spool uses no id twice" logship-sources/src/tracing/writer.rs \
  'id integer primary key autoincrement' 'id integer primary key' \
  cargo test -q -p logship-sources --features tracing --locked --test spool
mutate "shipping is not shipped" logship-sources/src/tracing/layer.rs \
  'if outer.is_own {' 'if outer.is_own && outer.fields.0.is_empty() {' \
  cargo test -q -p logship --locked --test tracing_spool
mutate "nothing of a row's record is left to the next" logship-sources/src/sql/record.rs \
  'record.attributes.truncate(count);' 'record.attributes.truncate(count.max(9));' \
  cargo test -q -p logship-sources --features sqlite --locked --lib sql::tests
mutate "a lane goes on after a turn that filled no chunk" $core/intake.rs \
  '        // The lane'"'"'s next turn comes with what is under way.
        self.fetch();
' '' \
  cargo test -q -p logship --no-default-features --features memory --locked --test hung_lane
mutate "a lane says each time that it has everything" $core/lane.rs \
  'self.said_caught_up &= self.outbox.is_durable();' 'self.said_caught_up |= !self.outbox.is_durable();' \
  cargo test -q -p logship --locked --test orchestrator

[ "$survivors" = 0 ] || { echo "$survivors mechanisms can be taken out and no test fails"; exit 1; }
