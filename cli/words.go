package cli

import (
	"strings"

	"google.golang.org/protobuf/reflect/protoreflect"
)

// asks are the verbs that cannot be undone: they ask first, unless --yes.
var asks = map[string]bool{"delete": true, "machine reinstall": true}

// asks reports whether somebody must confirm a verb.
func (v *verb) asks() bool { return asks[v.name] || asks[v.resource.name+" "+v.name] }

// grafts are methods whose command is not what their name says, because a
// person looks for them at another resource.
var grafts = map[protoreflect.FullName]string{
	"ingot.v1.TimelineService.Get":                        "machine timeline",
	"ingot.v1.TimelineService.GetAny":                     "machine timeline",
	"ingot.v1.TimelineService.ListAny":                    "machine progress",
	"ingot.v1.WipeService.List":                           "machine wipes",
	"ingot.v1.WipeService.Keys":                           "machine wipe-keys",
	"ingot.v1.FabricService.Sites":                        "partition sites",
	"ingot.v1.ConsoleService.Read":                        "machine console",
	"ingot.v1.ConsoleService.ReadAny":                     "machine console",
	"ingot.v1.EnrolmentService.Create":                    "partition enroll",
	"ingot.v1.ImageSourceService.Get":                     "image source",
	"ingot.v1.ImageSourceService.Put":                     "image pin",
	"metalstack.api.v2.SizeImageConstraintService.Try":    "size try",
	"metalstack.api.v2.MethodService.TokenScopedList":     "token permissions",
	"metalstack.api.v2.NetworkService.ListBaseNetworks":   "network list-base",
	"metalstack.admin.v2.SwitchService.ConnectedMachines": "switch machines",
}

// subjects are fields that verbs take as their argument although they list: of
// whom they list it. It may be left out.
var subjects = map[protoreflect.FullName]string{
	"ingot.v1.WipeService.List": "uuid",
}

// elsewhere are methods that have no command of their own, and what reaches
// them instead.
var elsewhere = map[protoreflect.FullName]string{
	"ingot.v1.WatchService.Project":        "list --watch",
	"ingot.v1.WatchService.All":            "list --watch",
	"ingot.v1.ConsoleService.Write":        "machine console",
	"ingot.v1.ConsoleService.WriteAny":     "machine console",
	"ingot.v1.EnrolmentService.Redeem":     "call, by the far end that was given the secret",
	"metalstack.api.v2.VersionService.Get": "version",
}

// outputOnly are fields of resources that the server writes.
var outputOnly = map[protoreflect.FullName]bool{
	"ingot.v1.BMC.status":         true,
	"ingot.v1.ImageSource.checks": true,
}

// unlocked are services whose updates refuse the time of the last change.
var unlocked = map[protoreflect.FullName]bool{
	"metalstack.api.v2.TokenService": true,
}

// namedBy are methods that create an object under an id that they call
// something else.
var namedBy = map[protoreflect.FullName]protoreflect.Name{
	"metalstack.admin.v2.TenantService.Create": "name",
}

// inside are resources whose changeable fields lie in a message within.
var inside = map[protoreflect.FullName]protoreflect.Name{
	"metalstack.api.v2.Machine": "allocation",
}

// defaultPartition are methods whose partition is optional on the wire but
// meant: the context's partition is used there, unless a machine is named.
var defaultPartition = map[protoreflect.FullName]bool{
	"metalstack.api.v2.MachineService.Create": true,
}

// defaults are values of parameters that the API requires and people mean.
var defaults = map[protoreflect.FullName]map[string]string{
	"metalstack.api.v2.MachineService.Create": {"allocation-type": "machine"},
	"ingot.v1.ConsoleService.Read":            {"tail": "16384"},
	"ingot.v1.ConsoleService.ReadAny":         {"tail": "16384"},
}

// secretFields are never printed by --debug.
var secretFields = map[protoreflect.Name]bool{
	"password": true, "console_password": true, "super_user_password": true, "secret": true, "token": true,
	"auth_key": true, "userdata": true, "payload": true, "body": true,
	"keys": true, "pen": true,
}

// resourceShort says what a resource is, in a few words.
var resourceShort = map[string]string{
	"audit":                 "Who did what and when",
	"bmc":                   "BMCs, told of or found by their DHCP leases",
	"component":             "Programs of the platform and when they were last seen",
	"fabric":                "The plan of a partition's boot network and underlay",
	"filesystem":            "File system layouts",
	"health":                "Health of the platform",
	"image":                 "Operating system images",
	"ip":                    "Addresses of projects",
	"machine":               "Machines and firewalls",
	"method":                "Methods of the API",
	"network":               "Networks",
	"partition":             "Partitions: sets of racks that fail together",
	"project":               "Projects, their members and invitations",
	"size":                  "Sizes of machines",
	"size-image-constraint": "Which images run on which sizes",
	"size-reservation":      "Machines kept for a project",
	"switch":                "Leaf switches",
	"task":                  "Background tasks",
	"tenant":                "Tenants, their members and invitations",
	"token":                 "API tokens",
	"user":                  "The user who calls",
	"vpn":                   "Access to firewalls by VPN",
}

// verbShort says what a verb does; %s is the resource with an article.
var verbShort = map[string]string{
	"describe": "Show %s",
	"create":   "Create %s",
	"update":   "Change fields of %s",
	"delete":   "Delete %s",

	"audit describe":           "Show what one request did",
	"audit list":               "List who did what and when",
	"bmc rotate":               "Give Ingot's own account at a BMC another password",
	"fabric describe":          "Show the plan of a partition",
	"fabric put":               "Create or replace the plan of a partition",
	"filesystem match":         "Show which layout a size and image would get, or whether one fits a machine",
	"health describe":          "Show the health of the platform",
	"image latest":             "Show the newest image of an operating system",
	"image pin":                "Say which bytes an image's url must deliver",
	"image source":             "Show what an image is pinned to and what caches found",
	"image usage":              "List images with the machines that use them",
	"ip create":                "Take an address from a network",
	"ip delete":                "Give an address back",
	"machine bmc-command":      "Have a machine's BMC do something",
	"machine boot-medium":      "Insert the boot medium and cycle a machine's power",
	"machine confirm-off":      "State that a machine whose power nobody can read is off",
	"machine console":          "Use a machine's serial console; without a terminal, show the end of it",
	"machine console-password": "Show the console password of an allocated machine",
	"machine create":           "Allocate a machine or firewall",
	"machine delete":           "Free a machine of a project; as operator: forget a machine",
	"machine get-bmc":          "Show what a machine's BMC reported, with its password",
	"machine interrupt":        "Send a machine a non-maskable interrupt, so that a system that hangs writes a dump",
	"machine issues":           "List what is wrong with machines",
	"machine list-bmc":         "List what BMCs reported",
	"machine progress":         "List where machines stand, what agents do and what is waited for",
	"machine reinstall":        "Put another system on a machine; disks that its layout does not name are kept",
	"machine set-state":        "Lock, taint or release a machine",
	"machine shutdown":         "Shut a machine's system down, and turn it off if it does not obey",
	"machine timeline":         "Show what happened to a machine and what it waits for",
	"machine wipe-keys":        "Show the public keys that proofs of wiped disks are signed with",
	"machine wipes":            "List how disks were wiped, with proof, also of machines that are gone",
	"method list":              "List the methods that the token may call",
	"network list-base":        "List networks that a project can build on",
	"partition capacity":       "Count machines by partition and size",
	"partition enroll":         "Make a one-time secret for a leaf or a management server",
	"partition sites":          "List management servers and the boot media they serve",
	"project add-member":       "Add a member to a project",
	"project invite":           "Invite someone to a project",
	"project invite-accept":    "Accept an invitation to a project",
	"project invite-delete":    "Withdraw an invitation to a project",
	"project invite-get":       "Show an invitation to a project",
	"project invites-list":     "List open invitations to a project",
	"project leave":            "Leave a project",
	"project remove-member":    "Remove a member from a project",
	"project update-member":    "Change the role of a member of a project",
	"size try":                 "Check whether an image runs on a size",
	"switch machines":          "List switches with the machines behind their ports",
	"switch migrate":           "Move the connections of a switch to another",
	"switch port":              "Set the wanted state of a switch port",
	"task queues":              "List the queues of background tasks",
	"tenant add-member":        "Add a member to a tenant",
	"tenant invite":            "Invite someone to a tenant",
	"tenant invite-accept":     "Accept an invitation to a tenant",
	"tenant invite-delete":     "Withdraw an invitation to a tenant",
	"tenant invite-get":        "Show an invitation to a tenant",
	"tenant invites-list":      "List open invitations to a tenant",
	"tenant leave":             "Leave a tenant",
	"tenant remove-member":     "Remove a member from a tenant",
	"tenant update-member":     "Change the role of a member of a tenant",
	"token create":             "Create a token; it is shown once",
	"token permissions":        "Show what the token in use may do",
	"token refresh":            "Create a token with the rights of the one in use",
	"token revoke":             "End the validity of a token",
	"user describe":            "Show the user who calls",
	"vpn auth-key":             "Make a key that joins the VPN of a project",
	"vpn list-nodes":           "List the nodes of the VPN",
}

func (v *verb) short() string {
	r := v.resource
	if s := verbShort[r.name+" "+v.name]; s != "" {
		return s
	}
	if v.name == "list" {
		return "List " + r.plural()
	}
	if s := verbShort[v.name]; s != "" {
		return strings.Replace(s, "%s", r.noun(), 1)
	}
	return strings.ToUpper(v.name[:1]) + strings.ReplaceAll(v.name[1:], "-", " ") + " of " + r.noun()
}

// noun is the resource in a sentence: "a size reservation", "an image".
func (r *resource) noun() string {
	article := "a "
	if strings.ContainsRune("aeio", rune(r.name[0])) {
		article = "an "
	}
	return article + strings.ReplaceAll(r.name, "-", " ")
}

func (r *resource) plural() string {
	end := "s"
	if strings.HasSuffix(r.name, "ch") {
		end = "es"
	}
	return strings.ReplaceAll(r.name, "-", " ") + end
}

func (r *resource) short() string {
	if s := resourceShort[r.name]; s != "" {
		return s
	}
	return "Manage " + strings.ReplaceAll(r.name, "-", " ")
}
