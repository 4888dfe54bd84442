package api

import (
	"context"

	"google.golang.org/protobuf/reflect/protoreflect"

	adminv2 "github.com/metal-stack/api/go/metalstack/admin/v2"
	apiv2 "github.com/metal-stack/api/go/metalstack/api/v2"

	"github.com/ingot-cloud/ingot/fault"
	"github.com/ingot-cloud/ingot/network"
	"github.com/ingot-cloud/ingot/records"
	"github.com/ingot-cloud/ingot/store"
)

var networkFilter = newFilter(map[protoreflect.Name]func(*apiv2.NetworkQuery, *apiv2.Network) bool{
	"address_family": func(q *apiv2.NetworkQuery, n *apiv2.Network) bool { return network.HasFamily(n, q.GetAddressFamily()) },
})

// missingNetwork is the answer about a network that is not there for the caller.
func missingNetwork(id string) error {
	return fault.New(fault.NotFound, "network "+id, "not found", "")
}

// showNetwork returns a network with what was taken from it.
func showNetwork(r store.Reader, n *apiv2.Network) *apiv2.Network {
	n.Consumption = network.Usage(r, n)
	return n
}

type networks struct{ *Server }

// ownNetwork returns a network of a project; others do not exist for it.
func ownNetwork(r store.Reader, id, project string) (*apiv2.Network, error) {
	n, err := records.Networks.Get(r, id)
	if err == nil && n.GetProject() != project {
		err = missingNetwork(id)
	}
	return n, err
}

func (s networks) Get(ctx context.Context, req *apiv2.NetworkServiceGetRequest) (*apiv2.NetworkServiceGetResponse, error) {
	n, err := ownNetwork(s.view(ctx), req.GetId(), req.GetProject())
	if err != nil {
		return nil, err
	}
	return &apiv2.NetworkServiceGetResponse{Network: showNetwork(s.view(ctx), n)}, nil
}

func (s networks) List(ctx context.Context, req *apiv2.NetworkServiceListRequest) (*apiv2.NetworkServiceListResponse, error) {
	resp := &apiv2.NetworkServiceListResponse{}
	for n := range records.Networks.By(s.view(ctx), "project", req.GetProject()) {
		if networkFilter.match(req.GetQuery(), n) {
			resp.Networks = append(resp.Networks, showNetwork(s.view(ctx), n))
		}
	}
	return resp, nil
}

// ListBaseNetworks shows what a project can take addresses or networks from.
// What others have taken from a network of everybody's is not its business.
func (s networks) ListBaseNetworks(ctx context.Context, req *apiv2.NetworkServiceListBaseNetworksRequest) (*apiv2.NetworkServiceListBaseNetworksResponse, error) {
	resp := &apiv2.NetworkServiceListBaseNetworksResponse{}
	for n := range records.Networks.All(s.view(ctx)) {
		if !network.IsBase(n, req.GetProject()) || !networkFilter.match(req.GetQuery(), n) {
			continue
		}
		if n.Project != nil {
			n = showNetwork(s.view(ctx), n)
		}
		resp.Networks = append(resp.Networks, n)
	}
	return resp, nil
}

// Create makes child networks only; the other types are for operators.
func (s networks) Create(ctx context.Context, req *apiv2.NetworkServiceCreateRequest) (*apiv2.NetworkServiceCreateResponse, error) {
	n, err := s.createNetwork(ctx, &adminv2.NetworkServiceCreateRequest{
		Project: &req.Project, Name: req.Name, Description: req.Description, Partition: req.Partition, Labels: req.GetLabels(),
		ParentNetwork: req.ParentNetwork, Length: req.Length, AddressFamily: req.AddressFamily, Type: apiv2.NetworkType_NETWORK_TYPE_CHILD,
	})
	return &apiv2.NetworkServiceCreateResponse{Network: n}, err
}

func (s networks) Update(ctx context.Context, req *apiv2.NetworkServiceUpdateRequest) (*apiv2.NetworkServiceUpdateResponse, error) {
	n, err := s.updateNetwork(ctx, &req.Project, &adminv2.NetworkServiceUpdateRequest{
		Id: req.GetId(), UpdateMeta: req.GetUpdateMeta(), Name: req.Name, Description: req.Description, Labels: req.Labels,
	})
	return &apiv2.NetworkServiceUpdateResponse{Network: n}, err
}

func (s networks) Delete(ctx context.Context, req *apiv2.NetworkServiceDeleteRequest) (*apiv2.NetworkServiceDeleteResponse, error) {
	if _, err := ownNetwork(s.view(ctx), req.GetId(), req.GetProject()); err != nil {
		return nil, err
	}
	n, err := s.deleteNetwork(ctx, req.GetId())
	return &apiv2.NetworkServiceDeleteResponse{Network: n}, err
}

type adminNetworks struct{ *Server }

func (s adminNetworks) Get(ctx context.Context, req *adminv2.NetworkServiceGetRequest) (*adminv2.NetworkServiceGetResponse, error) {
	n, err := records.Networks.Get(s.view(ctx), req.GetId())
	if err != nil {
		return nil, err
	}
	return &adminv2.NetworkServiceGetResponse{Network: showNetwork(s.view(ctx), n)}, nil
}

func (s adminNetworks) List(ctx context.Context, req *adminv2.NetworkServiceListRequest) (*adminv2.NetworkServiceListResponse, error) {
	resp := &adminv2.NetworkServiceListResponse{}
	for n := range records.Networks.All(s.view(ctx)) {
		if networkFilter.match(req.GetQuery(), n) {
			resp.Networks = append(resp.Networks, showNetwork(s.view(ctx), n))
		}
	}
	return resp, nil
}

func (s adminNetworks) Create(ctx context.Context, req *adminv2.NetworkServiceCreateRequest) (*adminv2.NetworkServiceCreateResponse, error) {
	n, err := s.createNetwork(ctx, req)
	return &adminv2.NetworkServiceCreateResponse{Network: n}, err
}

func (s adminNetworks) Update(ctx context.Context, req *adminv2.NetworkServiceUpdateRequest) (*adminv2.NetworkServiceUpdateResponse, error) {
	n, err := s.updateNetwork(ctx, nil, req)
	return &adminv2.NetworkServiceUpdateResponse{Network: n}, err
}

func (s adminNetworks) Delete(ctx context.Context, req *adminv2.NetworkServiceDeleteRequest) (*adminv2.NetworkServiceDeleteResponse, error) {
	n, err := s.deleteNetwork(ctx, req.GetId())
	return &adminv2.NetworkServiceDeleteResponse{Network: n}, err
}

func (s *Server) createNetwork(ctx context.Context, req *adminv2.NetworkServiceCreateRequest) (*apiv2.Network, error) {
	var n *apiv2.Network
	id := newID()
	if err := s.update(ctx, func(tx *store.Tx) (err error) {
		n, err = network.Create(tx, req, id)
		return err
	}); err != nil {
		return nil, err
	}
	return showNetwork(s.view(ctx), n), nil
}

// updateNetwork changes a network, of a project if one is given.
func (s *Server) updateNetwork(ctx context.Context, project *string, req *adminv2.NetworkServiceUpdateRequest) (*apiv2.Network, error) {
	var n *apiv2.Network
	if err := s.update(ctx, func(tx *store.Tx) (err error) {
		n, err = records.Networks.Change(tx, req.GetId(), func(n *apiv2.Network) error {
			if project != nil && n.GetProject() != *project {
				return missingNetwork(req.GetId())
			}
			if err := checkMeta("network", n.GetId(), n.GetMeta(), req.GetUpdateMeta()); err != nil {
				return err
			}
			updateLabels(n.Meta, req.GetLabels())
			return network.Edit(tx, n, req)
		})
		return err
	}); err != nil {
		return nil, err
	}
	return showNetwork(s.view(ctx), n), nil
}

// deleteNetwork deletes a network. The deletion task it returns is the
// network's own id and names work that is already done.
func (s *Server) deleteNetwork(ctx context.Context, id string) (*apiv2.Network, error) {
	n, err := removeBy(ctx, s, records.Networks, id, network.Remove)
	if err != nil {
		return nil, err
	}
	n.Meta.DeletionTaskId = &n.Id
	return n, nil
}

// networkChange shows a network as Get does.
func networkChange(r store.Reader, e store.Event) (change, error) {
	c, err := watch("network", records.Networks, (*apiv2.Network).GetId, (*apiv2.Network).GetProject).change(r, e)
	if n, ok := c.now.(*apiv2.Network); ok {
		showNetwork(r, n)
	}
	return c, err
}
