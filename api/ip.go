package api

import (
	"context"
	"iter"
	"net/netip"

	"google.golang.org/protobuf/reflect/protoreflect"

	adminv2 "github.com/metal-stack/api/go/metalstack/admin/v2"
	apiv2 "github.com/metal-stack/api/go/metalstack/api/v2"

	"github.com/ingot-cloud/ingot/network"
	"github.com/ingot-cloud/ingot/records"
	"github.com/ingot-cloud/ingot/store"
)

var ipFilter = newFilter(map[protoreflect.Name]func(*apiv2.IPQuery, *apiv2.IP) bool{
	"machine": func(q *apiv2.IPQuery, ip *apiv2.IP) bool { return network.Machine(ip) == q.GetMachine() },
	"parent_prefix_cidr": func(q *apiv2.IPQuery, ip *apiv2.IP) bool {
		p, err := netip.ParsePrefix(q.GetParentPrefixCidr())
		a, err2 := netip.ParseAddr(ip.GetIp())
		return err == nil && err2 == nil && p.Contains(a)
	},
	"address_family": func(q *apiv2.IPQuery, ip *apiv2.IP) bool {
		a, err := netip.ParseAddr(ip.GetIp())
		return err == nil && a.Is6() == (q.GetAddressFamily() == apiv2.IPAddressFamily_IP_ADDRESS_FAMILY_V6)
	},
})

type ips struct{ *Server }

func (s ips) Get(ctx context.Context, req *apiv2.IPServiceGetRequest) (*apiv2.IPServiceGetResponse, error) {
	key, err := network.FindIP(s.view(ctx), req.GetProject(), req.GetIp(), req.Namespace)
	if err != nil {
		return nil, err
	}
	ip, err := records.IPs.Get(s.view(ctx), key)
	return &apiv2.IPServiceGetResponse{Ip: ip}, err
}

func (s ips) List(ctx context.Context, req *apiv2.IPServiceListRequest) (*apiv2.IPServiceListResponse, error) {
	resp := &apiv2.IPServiceListResponse{}
	for ip := range records.IPs.By(s.view(ctx), "project", req.GetProject()) {
		if ipFilter.match(req.GetQuery(), ip) {
			resp.Ips = append(resp.Ips, ip)
		}
	}
	return resp, nil
}

func (s ips) Create(ctx context.Context, req *apiv2.IPServiceCreateRequest) (*apiv2.IPServiceCreateResponse, error) {
	var ip *apiv2.IP
	id := newID()
	adminEditor := callerOf(ctx).AdminRole(s.view(ctx)) == apiv2.AdminRole_ADMIN_ROLE_EDITOR
	err := s.update(ctx, func(tx *store.Tx) (err error) {
		ip, err = network.CreateIP(tx, req, id, adminEditor)
		return err
	}, network.HotIPs(req.GetNetwork()))
	return &apiv2.IPServiceCreateResponse{Ip: ip}, err
}

func (s ips) Update(ctx context.Context, req *apiv2.IPServiceUpdateRequest) (*apiv2.IPServiceUpdateResponse, error) {
	var ip *apiv2.IP
	err := s.update(ctx, func(tx *store.Tx) error {
		key, err := network.FindIP(tx, req.GetProject(), req.GetIp(), nil)
		if err != nil {
			return err
		}
		ip, err = records.IPs.Change(tx, key, func(ip *apiv2.IP) error {
			if err := checkMeta("ip", ip.GetIp(), ip.GetMeta(), req.GetUpdateMeta()); err != nil {
				return err
			}
			machine := network.Machine(ip)
			updateLabels(ip.Meta, req.GetLabels())
			if err := network.KeepMachine(ip, machine); err != nil {
				return err
			}
			return network.EditIP(ip, req)
		})
		return err
	})
	return &apiv2.IPServiceUpdateResponse{Ip: ip}, err
}

func (s ips) Delete(ctx context.Context, req *apiv2.IPServiceDeleteRequest) (*apiv2.IPServiceDeleteResponse, error) {
	var ip *apiv2.IP
	err := s.update(ctx, func(tx *store.Tx) error {
		key, err := network.FindIP(tx, req.GetProject(), req.GetIp(), nil)
		if err != nil {
			return err
		}
		ip, err = network.DeleteIP(tx, key)
		return err
	})
	return &apiv2.IPServiceDeleteResponse{Ip: ip}, err
}

type adminIPs struct{ *Server }

// List shows every project's addresses; those in quarantine are nobody's.
func (s adminIPs) List(ctx context.Context, req *adminv2.IPServiceListRequest) (*adminv2.IPServiceListResponse, error) {
	resp := &adminv2.IPServiceListResponse{}
	for ip := range candidateIPs(s.view(ctx), req.GetQuery()) {
		if ip.GetProject() != "" && ipFilter.match(req.GetQuery(), ip) {
			resp.Ips = append(resp.Ips, ip)
		}
	}
	return resp, nil
}

// candidateIPs yields the addresses that a query can match, by the narrowest
// index that it names a value of.
func candidateIPs(r store.Reader, q *apiv2.IPQuery) iter.Seq[*apiv2.IP] {
	for _, by := range []struct{ index, value string }{
		{"uuid", q.GetUuid()}, {"machine", q.GetMachine()}, {"project", q.GetProject()}, {"network", q.GetNetwork()},
	} {
		if by.value != "" {
			return records.IPs.By(r, by.index, by.value)
		}
	}
	return records.IPs.All(r)
}
