# One host of the fleet, in mount and UTS namespaces of its own: systemd's journal, rsyslog with the example's configuration,
# and the daemon. In the environment: HOST, RECORDING, DAEMON, RSYSLOGD, MODULES, LIBRARIES, CONFIGURATION, STORE.
# The last line printed is how many states of incidents its journal has.
set -eu
hostname "$HOST"
mount -t tmpfs tmpfs /run
mkdir -p /run/systemd/journal /run/log/journal
"$JOURNALD" 2>/dev/null &
journald=$!
trap 'kill $journald' EXIT
until [ -S /run/systemd/journal/socket ]; do sleep 0.1; done

cd /run
LD_LIBRARY_PATH=$LIBRARIES "$RSYSLOGD" -n -M "$MODULES" -f "$CONFIGURATION" -i /run/rsyslogd.pid &
rsyslogd=$!
trap 'kill $rsyslogd $journald' EXIT
# It reads from the journal's end at its start on.
until [ -s /run/rsyslogd.pid ]; do sleep 0.1; done
sleep 2

printf '[log]\nformat = "journald"\n' > /run/poisontrace.toml
"$DAEMON" replay --config /run/poisontrace.toml --speed max --web.listen-address '' --from "$RECORDING"
# The journal writes what it was handed before this signal.
rm -f /run/systemd/journal/synced
kill -s RTMIN+1 "$journald"
for _ in $(seq 100); do
    [ -e /run/systemd/journal/synced ] && break
    sleep 0.1
done
states=$(journalctl -D /run/log/journal -o cat --output-fields=POISONTRACE_STATE -q | grep -c . || true)
for _ in $(seq 100); do
    [ "$(grep -c "^{\"host\":\"$HOST\"," "$STORE" 2>/dev/null || true)" = "$states" ] && break
    sleep 0.1
done
echo "$states"
