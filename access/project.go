package access

import (
	apiv2 "github.com/metal-stack/api/go/metalstack/api/v2"

	"github.com/ingot-cloud/ingot/fault"
	"github.com/ingot-cloud/ingot/records"
	"github.com/ingot-cloud/ingot/store"
)

// CreateProject stores a project of an existing tenant, which becomes its
// direct owner.
func CreateProject(tx *store.Tx, p *apiv2.Project) error {
	if _, err := records.Tenants.Get(tx, p.GetTenant()); err != nil {
		return err
	}
	tx.Bump(projectsOf(p.GetTenant()))
	if err := records.Projects.Insert(tx, p); err != nil {
		return err
	}
	_, err := AddMember(tx, ProjectGroup, p.GetUuid(), p.GetTenant(), apiv2.ProjectRole_PROJECT_ROLE_OWNER)
	return err
}

// OpenProject returns a project that something can be created in. Whoever
// creates something in a project asks for it in the same Tx: that is what
// DeleteProject relies on.
func OpenProject(tx *store.Tx, uuid string) (*apiv2.Project, error) {
	p, err := records.Projects.Get(tx, uuid)
	if err == nil && p.GetMeta().GetDeletionTaskId() != "" {
		err = fault.New(fault.Precondition, "project "+uuid, "is being deleted", "use another project")
	}
	return p, err
}

// CloseProject makes OpenProject refuse a project, also to every Tx that got
// it before. The task is any name.
func CloseProject(tx *store.Tx, uuid, task string) error {
	_, err := records.Projects.Change(tx, uuid, func(p *apiv2.Project) error {
		p.Meta.DeletionTaskId = &task
		return nil
	})
	return err
}

// ReopenProject undoes CloseProject.
func ReopenProject(tx *store.Tx, uuid string) error {
	_, err := records.Projects.Change(tx, uuid, func(p *apiv2.Project) error {
		p.Meta.DeletionTaskId = nil
		return nil
	})
	return err
}

// holdings are what must be gone before a project can be deleted.
var holdings = []struct {
	plural string
	count  func(r store.Reader, project string) int
}{
	{"machines", func(r store.Reader, project string) int { return records.Allocations.Count(r, "project", project) }},
	{"ips", func(r store.Reader, project string) int { return records.IPs.Count(r, "project", project) }},
	{"networks", func(r store.Reader, project string) int { return records.Networks.Count(r, "project", project) }},
	{"size reservations", func(r store.Reader, project string) int { return records.SizeReservations.Count(r, "project", project) }},
}

// DeleteProject deletes a closed project that has nothing left, its
// memberships, and its tokens' roles in it with them: a role counts only as
// long as the user has it.
func DeleteProject(tx *store.Tx, uuid string) (*apiv2.Project, error) {
	p, err := records.Projects.Get(tx, uuid)
	if err != nil {
		return nil, err
	}
	if p.GetMeta().GetDeletionTaskId() == "" {
		panic("access: DeleteProject before CloseProject")
	}
	for _, h := range holdings {
		if h.count(tx, uuid) > 0 {
			return nil, fault.Newf(fault.Precondition, "", "there are still %s associated with this project, you need to delete them first", h.plural)
		}
	}
	tx.Bump(projectsOf(p.GetTenant()))
	if err := ProjectGroup.dissolve(tx, uuid); err != nil {
		return nil, err
	}
	if err := ProjectGroup.uninvite(tx, uuid); err != nil {
		return nil, err
	}
	return records.Projects.Delete(tx, uuid)
}
