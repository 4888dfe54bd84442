package machine

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"time"

	apiv2 "github.com/metal-stack/api/go/metalstack/api/v2"

	privatev1 "github.com/ingot-cloud/ingot/proto/ingot/private/v1"
	"github.com/ingot-cloud/ingot/records"
	"github.com/ingot-cloud/ingot/store"
)

const (
	// lastErrorFor is how long a last error is an issue, unless asked otherwise.
	lastErrorFor = 7 * 24 * time.Hour
	// bmcOutdated is the age from which on a BMC report is an issue.
	bmcOutdated = 20 * time.Minute
	// issueDocs explains every issue, by its name.
	issueDocs = "https://metal-stack.io/docs/troubleshooting#"
)

// An issue is one thing that can be wrong with a machine.
type issue struct {
	kind        apiv2.MachineIssueType
	severity    apiv2.MachineIssueSeverity
	name        string
	description string
	// is reports whether a machine has the issue, and details if there are any.
	is func(e evidence) (details string, has bool)
}

// evidence is what issues are judged from.
type evidence struct {
	r         store.Reader
	m         *privatev1.Machine
	bmc       *apiv2.MachineBMCReport
	events    *privatev1.Events
	now       time.Time
	threshold time.Duration
}

const (
	minor    = apiv2.MachineIssueSeverity_MACHINE_ISSUE_SEVERITY_MINOR
	major    = apiv2.MachineIssueSeverity_MACHINE_ISSUE_SEVERITY_MAJOR
	critical = apiv2.MachineIssueSeverity_MACHINE_ISSUE_SEVERITY_CRITICAL
)

// noEvents stands alone: without events nothing else can be judged.
var noEvents = issue{apiv2.MachineIssueType_MACHINE_ISSUE_TYPE_NO_EVENT_CONTAINER, major, "no-event-container", "machine has no event container",
	func(e evidence) (string, bool) { return "", e.events == nil }}

var issues = []issue{
	{apiv2.MachineIssueType_MACHINE_ISSUE_TYPE_NO_PARTITION, major, "no-partition", "machine with no partition",
		func(e evidence) (string, bool) { return "", e.m.GetPartition() == "" }},
	{apiv2.MachineIssueType_MACHINE_ISSUE_TYPE_LIVELINESS_DEAD, major, "liveliness-dead", "the machine is not sending events anymore",
		func(e evidence) (string, bool) { return lastSeen(e.m), e.m.GetLiveliness() == dead }},
	{apiv2.MachineIssueType_MACHINE_ISSUE_TYPE_LIVELINESS_UNKNOWN, major, "liveliness-unknown", "the machine is not sending LLDP alive messages anymore",
		func(e evidence) (string, bool) { return lastSeen(e.m), e.m.GetLiveliness() == unknown }},
	{apiv2.MachineIssueType_MACHINE_ISSUE_TYPE_LIVELINESS_NOT_AVAILABLE, minor, "liveliness-not-available", "the machine liveliness is not available",
		func(e evidence) (string, bool) {
			return "", !slices.Contains([]apiv2.MachineLiveliness{alive, dead, unknown}, e.m.GetLiveliness())
		}},
	{apiv2.MachineIssueType_MACHINE_ISSUE_TYPE_FAILED_MACHINE_RECLAIM, critical, "failed-machine-reclaim", "machine phones home but not allocated",
		func(e evidence) (string, bool) {
			if !e.m.GetFailedReclaim() && (e.m.GetAllocation() != "" || !newestIs(e.events, PhonedHome)) {
				return "", false
			}
			return reclaimTrouble(e), true
		}},
	{apiv2.MachineIssueType_MACHINE_ISSUE_TYPE_CRASH_LOOP, major, "crashloop", "machine is in a provisioning crash loop (⭕)",
		func(e evidence) (string, bool) { return "", e.m.GetCrashLoop() && !newestIs(e.events, Waiting) }},
	{apiv2.MachineIssueType_MACHINE_ISSUE_TYPE_LAST_EVENT_ERROR, minor, "last-event-error", "the machine had an error during the provisioning lifecycle",
		func(e evidence) (string, bool) {
			last := e.m.GetLastError()
			return "occurred at " + last.GetTime().AsTime().UTC().Format(time.RFC3339), last != nil && e.now.Sub(last.GetTime().AsTime()) < e.threshold
		}},
	notWiped,
	{apiv2.MachineIssueType_MACHINE_ISSUE_TYPE_BMC_WITHOUT_MAC, major, "bmc-without-mac", "BMC has no mac address",
		func(e evidence) (string, bool) { return "", e.bmc.GetBmc().GetMac() == "" }},
	{apiv2.MachineIssueType_MACHINE_ISSUE_TYPE_BMC_WITHOUT_IP, major, "bmc-without-ip", "BMC has no ip address",
		func(e evidence) (string, bool) { return "", e.bmc.GetBmc().GetAddress() == "" }},
	{apiv2.MachineIssueType_MACHINE_ISSUE_TYPE_BMC_INFO_OUTDATED, major, "bmc-info-outdated", "BMC has not been updated from either metal-hammer or metal-bmc",
		func(e evidence) (string, bool) {
			if e.bmc.GetUpdatedAt() == nil {
				return "machine ipmi has never been set", true
			}
			age := e.now.Sub(e.bmc.GetUpdatedAt().AsTime())
			return fmt.Sprintf("last updated %s ago", age.Round(time.Second)), age > bmcOutdated
		}},
	{apiv2.MachineIssueType_MACHINE_ISSUE_TYPE_ASN_UNIQUENESS, minor, "asn-not-unique", "The ASN is not unique (only impact on firewalls)",
		func(e evidence) (string, bool) {
			a, ok := records.Allocations.Peek(e.r, e.m.GetUuid())
			n := a.GetAllocation().GetNetworks()
			if !ok || len(n) == 0 || a.GetAllocation().GetAllocationType() != firewallType {
				return "", false
			}
			asn := strconv.FormatUint(uint64(n[0].GetAsn()), 10)
			return "ASN " + asn, records.Allocations.Count(e.r, "firewall-asn", asn) > 1
		}},
	{apiv2.MachineIssueType_MACHINE_ISSUE_TYPE_BMC_NON_DISTINCT_IP, major, "bmc-no-distinct-ip", "BMC IP address is not distinct",
		func(e evidence) (string, bool) {
			a, err := netip.ParseAddrPort(e.bmc.GetBmc().GetAddress())
			if err != nil {
				return "", false
			}
			return "BMC IP " + a.Addr().String(), records.MachineBMCs.Count(e.r, "ip", a.Addr().String()) > 1
		}},
}

const (
	alive        = apiv2.MachineLiveliness_MACHINE_LIVELINESS_ALIVE
	dead         = apiv2.MachineLiveliness_MACHINE_LIVELINESS_DEAD
	unknown      = apiv2.MachineLiveliness_MACHINE_LIVELINESS_UNKNOWN
	machineType  = apiv2.MachineAllocationType_MACHINE_ALLOCATION_TYPE_MACHINE
	firewallType = apiv2.MachineAllocationType_MACHINE_ALLOCATION_TYPE_FIREWALL
)

func lastSeen(m *privatev1.Machine) string {
	if m.GetLastEvent() == nil {
		return "never heard of"
	}
	return "last heard of at " + m.GetLastEvent().AsTime().UTC().Format(time.RFC3339)
}

// newestIs reports whether the newest provisioning event is e.
func newestIs(events *privatev1.Events, e Event) bool {
	return len(events.GetEvents()) > 0 && events.GetEvents()[0].GetType() == e.Wire()
}

// Issues says what is wrong with a machine, as far as the query asks for it:
// omit beats only. Other machines are taken into account whether or not the
// query is for them.
func Issues(r store.Reader, m *privatev1.Machine, q *apiv2.MachineIssuesQuery, now time.Time) []*apiv2.MachineIssue {
	e := evidence{r: r, m: m, now: now, threshold: lastErrorFor}
	if q.GetLastErrorThreshold() != nil {
		e.threshold = q.GetLastErrorThreshold().AsDuration()
	}
	e.events, _ = records.Events.Peek(r, m.GetUuid())
	bmc, _ := records.MachineBMCs.Peek(r, m.GetUuid())
	e.bmc = bmc.GetReport()
	all := issues
	if e.events == nil {
		all = []issue{noEvents}
	}
	var found []*apiv2.MachineIssue
	for _, i := range all {
		if slices.Contains(q.GetOmit(), i.kind) || len(q.GetOnly()) > 0 && !slices.Contains(q.GetOnly(), i.kind) || i.severity < q.GetSeverity() {
			continue
		}
		if details, has := i.is(e); has {
			found = append(found, &apiv2.MachineIssue{
				Type: i.kind, Severity: i.severity, Description: i.description, ReferenceUrl: issueDocs + i.name, Details: details,
			})
		}
	}
	return found
}
