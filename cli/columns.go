package cli

import (
	"strings"

	"google.golang.org/protobuf/reflect/protoreflect"
)

// layouts says which columns a message has in a table: NAME=path, where the
// path leads through fields, list indexes and map keys. ":age" prints how
// long ago a time was, ":bytes" a size, ":count" the length of a list. Columns
// after "|" are only in the wide table. "each F" makes a row of every element
// of field F; "^path" then starts at the message itself. "@key" is the key of
// a map. Messages without an entry get their plain fields.
var layouts = map[protoreflect.FullName]string{
	"metalstack.api.v2.IP": "IP=ip NETWORK=network TYPE=type NAME=name PROJECT=project AGE=meta.created_at:age" +
		" | UUID=uuid NAMESPACE=namespace DESCRIPTION=description LABELS=meta.labels",
	"metalstack.api.v2.Image": "ID=id CLASSIFICATION=classification FEATURES=features EXPIRES=expires_at:age NAME=name" +
		" | URL=url DESCRIPTION=description AGE=meta.created_at:age LABELS=meta.labels",
	"metalstack.api.v2.ImageUsage": "ID=image.id CLASSIFICATION=image.classification EXPIRES=image.expires_at:age USED=used_by:count | MACHINES=used_by",
	"metalstack.api.v2.Machine": "UUID=uuid EVENT=recent_provisioning_events.events.0.event WHEN=recent_provisioning_events.events.0.time:age" +
		" STATE=status.condition.state LIVE=status.liveliness HOSTNAME=allocation.hostname PROJECT=allocation.project" +
		" SIZE=size IMAGE=allocation.image PARTITION=partition RACK=rack" +
		" | NAME=allocation.name TYPE=allocation.allocation_type IPS=allocation.networks.*.ips ALLOCATED=allocation.meta.created_at:age" +
		" MEMORY=hardware.memory:bytes LAST-ERROR=recent_provisioning_events.last_error_event.message LABELS=allocation.meta.labels",
	"metalstack.api.v2.MachineIssues": "each issues UUID=^uuid TYPE=type SEVERITY=severity DESCRIPTION=description | DETAILS=details REFERENCE=reference_url",
	"metalstack.api.v2.MachineBMCReport": "UUID=@key ADDRESS=bmc.address POWER=bmc.power_state LED=led_state.value WATTS=power_metric.average_consumed_watts" +
		" BIOS=bios.version BMC=bmc.version PRODUCT=fru.product_part_number SERIAL=fru.product_serial SEEN=updated_at:age | MAC=bmc.mac USER=bmc.user INTERFACE=bmc.interface",
	"metalstack.api.v2.Network": "ID=id NAME=name TYPE=type PREFIXES=prefixes PROJECT=project PARTITION=partition NAT=nat_type USED=consumption.ipv4.used_ips" +
		" | PARENT=parent_network VRF=vrf DESTINATIONS=destination_prefixes NAMESPACE=namespace USED6=consumption.ipv6.used_ips DESCRIPTION=description" +
		" AGE=meta.created_at:age LABELS=meta.labels",
	"metalstack.api.v2.Partition": "ID=id DESCRIPTION=description DNS=dns_servers NTP=ntp_servers MANAGEMENT=mgmt_service_addresses AGE=meta.created_at:age" +
		" | IMAGE=boot_configuration.image_url KERNEL=boot_configuration.kernel_url COMMANDLINE=boot_configuration.commandline LABELS=meta.labels",
	"metalstack.admin.v2.PartitionCapacity": "each machine_size_capacities PARTITION=^partition SIZE=size TOTAL=total ALLOCATED=allocated FREE=free WAITING=waiting" +
		" FAULTY=faulty RESERVED=reservations | ALLOCATABLE=allocatable PHONED-HOME=phoned_home OTHER=other UNAVAILABLE=unavailable USED=used_reservations" +
		" REMAINING=remaining_reservations",
	"metalstack.api.v2.Project":             "ID=uuid NAME=name TENANT=tenant DESCRIPTION=description AGE=meta.created_at:age | LABELS=meta.labels AVATAR=avatar_url",
	"metalstack.api.v2.ProjectMember":       "ID=id ROLE=role INHERITED=inherited_membership SINCE=created_at:age",
	"metalstack.api.v2.ProjectInvite":       "SECRET=secret PROJECT=project NAME=project_name ROLE=role EXPIRES=expires_at:age | TENANT=tenant JOINED=joined",
	"metalstack.api.v2.Tenant":              "LOGIN=login NAME=name EMAIL=email DESCRIPTION=description AGE=meta.created_at:age | CREATED-BY=created_by LABELS=meta.labels AVATAR=avatar_url",
	"metalstack.api.v2.TenantMember":        "ID=id ROLE=role PROJECTS=projects SINCE=created_at:age",
	"metalstack.api.v2.TenantInvite":        "SECRET=secret TENANT=target_tenant NAME=target_tenant_name ROLE=role EXPIRES=expires_at:age | INVITED-BY=tenant JOINED=joined",
	"metalstack.api.v2.Token":               "UUID=uuid TYPE=token_type USER=user ADMIN=admin_role INFRA=infra_role DESCRIPTION=description EXPIRES=expires:age | ISSUED=issued_at:age PROJECTS=project_roles TENANTS=tenant_roles MACHINES=machine_roles",
	"metalstack.api.v2.MethodPermission":    "SUBJECT=subject METHODS=methods",
	"metalstack.api.v2.Size":                "ID=id NAME=name CONSTRAINTS=constraints DESCRIPTION=description | AGE=meta.created_at:age LABELS=meta.labels",
	"metalstack.api.v2.SizeImageConstraint": "SIZE=size CONSTRAINTS=image_constraints NAME=name DESCRIPTION=description | AGE=meta.created_at:age",
	"metalstack.api.v2.SizeReservation": "ID=id SIZE=size PROJECT=project PARTITIONS=partitions AMOUNT=amount NAME=name" +
		" | DESCRIPTION=description AGE=meta.created_at:age LABELS=meta.labels",
	"metalstack.api.v2.Switch": "ID=id PARTITION=partition RACK=rack OS=os.vendor VERSION=os.version MANAGEMENT=management_ip MODE=replace_mode SYNC=last_sync.time:age" +
		" TOOK=last_sync.duration ERROR=last_sync_error.time:age | METAL-CORE=os.metal_core_version PORTS=nics:count MACHINES=machine_connections:count" +
		" LAST-ERROR=last_sync_error.error ROOM=room DESCRIPTION=description",
	"metalstack.api.v2.SwitchWithMachines": "each connections SWITCH=^id PORT=nic.name STATE=nic.state.actual MACHINE=machine.uuid SIZE=machine.size" +
		" HOSTNAME=machine.allocation.hostname PROJECT=machine.allocation.project PARTITION=^partition RACK=^rack | SERIAL=fru.product_serial",
	"metalstack.api.v2.FilesystemLayout": "ID=id NAME=name SIZES=constraints.sizes IMAGES=constraints.images DESCRIPTION=description" +
		" | DISKS=disks FILESYSTEMS=filesystems RAID=raid VOLUME-GROUPS=volume_groups",
	"metalstack.api.v2.AuditTrace": "TIME=timestamp UUID=uuid USER=user TENANT=tenant PROJECT=project METHOD=method PHASE=phase CODE=result_code | SOURCE=source_ip BODY=body",
	"metalstack.api.v2.Component":  "UUID=uuid TYPE=type IDENTIFIER=identifier VERSION=version.version SEEN=reported_at:age UP=started_at:age | INTERVAL=interval REVISION=version.revision",
	"metalstack.api.v2.Health":     "each services SERVICE=name STATUS=status MESSAGE=message",
	"metalstack.api.v2.VPNNode":    "ID=id NAME=name PROJECT=project ADDRESSES=ip_addresses ONLINE=online SEEN=last_seen:age",
	"metalstack.admin.v2.TaskInfo": "ID=id QUEUE=queue TYPE=type STATE=state RETRIED=retried ERROR=last_error DONE=completed_at:age | FAILED=last_failed_at:age NEXT=next_process_at:age DEADLINE=deadline:age",
	"ingot.v1.BMC": "ID=id PARTITION=partition ADDRESS=address MACHINE=status.machine POWER=status.power_state SEEN=status.last_seen:age ERROR=status.last_error" +
		" | MAC=mac HOSTNAME=status.hostname USER=user VENDOR=status.vendor MODEL=status.model FIRMWARE=status.firmware_version MEDIUM=status.medium.url OVERRIDE=status.medium.override_target" +
		" FINGERPRINT=status.fingerprint",
	"ingot.v1.Fabric": "PARTITION=partition BOOT=boot_supernet VNI=boot_vni ADDRESS=boot_address LOOPBACKS=loopbacks ASN=first_asn" +
		" | ASNS=asn_count PORTS=service_ports MEDIUM=boot_medium DOMAIN=boot_domain",
	"ingot.v1.ImageSource": "IMAGE=image SHA256=sha256 SIZE=size:bytes UNPACKED=unpacked_size:bytes FORMAT=format CHECKS=checks | SHA512=sha512",
	"ingot.v1.Site":        "PARTITION=partition SEEN=seen:age MEDIUM=medium.url SIZE=medium.size:bytes BUILT=medium.built:age ERROR=medium.error | SHA256=medium.sha256",
	"ingot.v1.Standing": "UUID=uuid PHASE=phase SINCE=phase_since:age STEP=progress.step PERCENT=progress.percent LEFT=progress.time_left WAITING=waiting.what" +
		" | MESSAGE=progress.message DO=waiting.remedy",
	"ingot.v1.Wipe": "START=start MACHINE=uuid DISK=disk.name SERIAL=disk.serial SIZE=disk.size:bytes RESULT=result METHOD=method END=end ERROR=error" +
		" | MODEL=disk.model WWN=disk.wwn TRIES=tries SAMPLES=check.samples ZEROES=check.zeroes PARTITION=partition BOOT=boot_id RECORDED=recorded AGENT=agent_version",
	"ingot.v1.WipeKey":  "ID=id CREATED=created RETIRED=retired | PEM=pem",
	"ingot.v1.Timeline": "each entries TIME=time SOURCE=source STEP=step TOOK=took FAILED=failed MESSAGE=message | BOOT=boot_id",
}

// A column is one column of a table.
type column struct {
	header string
	path   []string // field names, list indexes, "*", map keys
	format string   // "", "age", "bytes" or "count"
	parent bool     // the path starts at the message itself, not at the element
	wide   bool
	hidden bool // only sorted or filtered by
}

// A layout is how a message becomes rows.
type layout struct {
	each    protoreflect.FieldDescriptor // nil: the message is the row
	columns []column
}

// layoutOf returns the layout of a message.
func layoutOf(m protoreflect.MessageDescriptor, keyed bool) layout {
	text, ok := layouts[m.FullName()]
	if !ok {
		return plainLayout(m, keyed)
	}
	var l layout
	words := strings.Fields(text)
	if words[0] == "each" {
		l.each = m.Fields().ByName(protoreflect.Name(words[1]))
		words = words[2:]
	}
	wide := false
	for _, w := range words {
		if w == "|" {
			wide = true
			continue
		}
		header, path, _ := strings.Cut(w, "=")
		path, format, _ := strings.Cut(path, ":")
		path, parent := strings.CutPrefix(path, "^")
		l.columns = append(l.columns, column{header: header, path: strings.Split(path, "."), format: format, parent: parent, wide: wide})
	}
	return l
}

// plainLayout shows the fields that fit in a cell.
func plainLayout(m protoreflect.MessageDescriptor, keyed bool) layout {
	var l layout
	if keyed {
		l.columns = append(l.columns, column{header: "KEY", path: []string{"@key"}})
	}
	for i := range m.Fields().Len() {
		f := m.Fields().Get(i)
		if f.Message() == nil || f.IsMap() || wellKnown(f.Message()) {
			header := strings.ToUpper(kebab(string(f.Name())))
			l.columns = append(l.columns, column{header: header, path: []string{string(f.Name())}, wide: f.IsList() || f.IsMap()})
		}
	}
	return l
}
